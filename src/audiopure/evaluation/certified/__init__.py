"""Certificates of a whole set of clips: settings, a resumable run, its record and its report."""
