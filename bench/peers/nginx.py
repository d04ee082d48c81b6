"""nginx, that takes PUTs onto the disk and does nothing else (`ngx_http_dav_module`)."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.frame import Unavailable
from bench.system import say
from deploy.local import provision
from deploy.local.processes import LocalError, Supervised
from tests.system import free_ports

_CONFIGURATION = """
daemon off;
user root;
worker_processes auto;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 100m;
    client_body_buffer_size 64k;
    client_body_temp_path {folder}/temp;
    keepalive_timeout 120s;
    keepalive_requests 100000;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {folder}/kept;
        location / {{ dav_methods PUT; create_full_put_path on; }}
    }}
}}
"""


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """Its address; what it took is gone afterwards. Raises Unavailable."""
    program = shutil.which("nginx")
    if program is None and provision.can_install() and provision.install("nginx-light"):
        program = shutil.which("nginx")
    if program is None:
        raise Unavailable("没有 nginx(Debian 软件包 nginx-light),也无法安装。")
    with tempfile.TemporaryDirectory(dir=folder, prefix="nginx-") as made:
        port = free_ports(1)
        for name in ("temp", "kept"):
            (Path(made) / name).mkdir()
        configuration = Path(made) / "nginx.conf"
        configuration.write_text(_CONFIGURATION.format(folder=made, port=port))
        (Path(made) / "kept" / "ready").touch()
        url = f"http://127.0.0.1:{port}"
        argv = [program, "-p", made, "-c", str(configuration)]
        server = Supervised("nginx", argv, {"PATH": os.defpath}, folder / "nginx.log", f"{url}/ready", report=say)
        try:
            server.start()
            yield f"{url}/"
        except LocalError as error:
            raise Unavailable(str(error)) from error
        finally:
            server.stop()
