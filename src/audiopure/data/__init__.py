"""Datasets behind one interface: manifests, published layouts, batches of unequal lengths."""

from audiopure.data.batch import collate
from audiopure.data.layouts import DATASETS, load_dataset
from audiopure.data.manifest import Clip, Dataset, data_root, read_manifest

__all__ = ["DATASETS", "Clip", "Dataset", "collate", "data_root", "load_dataset", "read_manifest"]
