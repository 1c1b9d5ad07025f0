"""A page opened in headless Chromium with no network: what it plays, shows and complains of."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
PATIENCE = 90  # seconds
# says all it has found on the console, which a page that may connect to nothing can still do
PROBE = """<script>
const complaints = [];
addEventListener("error", event => complaints.push(event.message || String(event.target)), true);
addEventListener("securitypolicyviolation", event => complaints.push(event.violatedDirective));
addEventListener("load", async () => {
  const sounds = [];
  for (const sound of document.querySelectorAll("audio")) {
    sound.muted = true;
    const waited = new Promise((_, fail) => setTimeout(() => fail(new Error("too long")), 5000));
    const said = await Promise.race([sound.play(), waited]).then(() => "plays", error => error.message);
    sounds.push([said, sound.duration > 0, sound.error === null]);
    sound.pause();
  }
  const images = [...document.images].map(image => image.naturalWidth > 0);
  const wide = document.documentElement.scrollWidth > innerWidth;
  const loaded = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:"));
  const found = {sounds, images, complaints, wide, loaded: loaded.map(entry => entry.name)};
  console.log("PROBE " + JSON.stringify(found) + " END");
});
</script></head>"""


def opened(page: Path, scratch: Path, width: int = 1280) -> dict[str, Any]:
    """What a copy of the page with the probe in it finds in a window of this width.

    Returns sounds (whether each plays, has a length, is without an error), images (whether each shows),
    complaints (errors of scripts, of what the page loads, of its policy), console (its other lines), wide
    (whether the page scrolls sideways), loaded (what it fetched). Raises TimeoutError if it never answers.
    """
    assert CHROMIUM is not None
    copy, log = scratch / "probe.html", scratch / "chromium.log"
    text = page.read_text(encoding="utf-8")
    assert text.count("</head>") == 1
    copy.write_text(text.replace("</head>", PROBE), encoding="utf-8")
    words = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    words += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    words += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        f"--window-size={width},900",
    ]
    words += ["--autoplay-policy=no-user-gesture-required", f"--user-data-dir={scratch / 'profile'}"]
    with log.open("wb") as errors:
        process = subprocess.Popen([*words, copy.as_uri()], stdout=subprocess.DEVNULL, stderr=errors)
    try:
        until = time.monotonic() + PATIENCE
        while " END" not in (said := log.read_text(errors="replace")):
            if time.monotonic() > until or process.poll() is not None:
                raise TimeoutError(said[-2000:])
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    console = [line for line in said.splitlines() if ":CONSOLE" in line]
    (probe,) = (line for line in console if "PROBE " in line)
    found = re.search(r"PROBE (\{.*\}) END", probe)
    assert found is not None
    return json.loads(found[1]) | {"console": [line for line in console if line != probe]}
