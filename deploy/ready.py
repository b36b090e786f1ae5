"""The health checks of the image. Exit with 0 if all is well, with 1 and the reason if not.

``ready.py`` is for Docker: the model LWC_MODEL is ready and no model process has died. ``ready.py --alive`` is the
liveness probe of Kubernetes: the server answers and no model process has died. A model may still be loading.
"""

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

PYTHON_MODEL = "(triton_python_b)"  # Linux cuts the name of triton_python_backend_stub after 15 characters


def dead() -> list[str]:
    """Ids of model processes that have died. Triton does not reap them, and reports their models as ready."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text(encoding="utf-8", errors="replace").split()
        except OSError:  # the process has ended since
            continue
        if fields[1:3] == [PYTHON_MODEL, "Z"]:
            found.append(process.name)
    return found


port = os.environ.get("LWC_HTTP_PORT", "8000")
path = "/v2/health/live" if "--alive" in sys.argv else f"/v2/models/{os.environ['LWC_MODEL']}/ready"
url = f"http://127.0.0.1:{port}{path}"
# No proxy: the server is in this container.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    opener.open(url, timeout=3).close()
except (urllib.error.URLError, OSError) as error:
    sys.exit(f"{url}: {error}")
if pids := dead():
    sys.exit(f"model processes died: {', '.join(pids)}")
