"""Exit with 0 when the served model says that it is ready: the image's health check."""

import os
import sys
import urllib.error
import urllib.request

port = os.environ.get("LWC_HTTP_PORT", "8000")
url = f"http://127.0.0.1:{port}/v2/models/{os.environ['LWC_MODEL']}/ready"
# No proxy: the server is in this container.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    opener.open(url, timeout=3).close()
except (urllib.error.URLError, OSError) as error:
    sys.exit(f"{url}: {error}")
