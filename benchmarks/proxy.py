"""A run behind nginx or Envoy against the same run without: bytes, CPU and wall seconds.

    python benchmarks/proxy.py [--proxy nginx] [--hidden 256] [--blocks 4] [--rounds 3] [--steps 4]
                               [--repeats 3]

One server and two clients, each a process of its own, on loopback. `direct`: certificates on both sides,
no proxy. `nginx`, `envoy`: the shipped configuration (deploy/) with that of this machine; TLS ends there,
and each client shows its own token. Sides take turns. The model is random (its weights change no
timing), the rows too; no codec, so that the wire carries as much as it can. Checked: both sides leave the
same adapter, to the byte, and the same bytes, losses and perplexities in every round. Wall seconds are those
of the rounds, CPU seconds those of all processes from their start to their end, the proxy's among them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from benchlib.network_runs import make_job, result_of, run_network
from benchlib.record import RESULTS, ratio, save, spread

from envoy_proxy import Envoy
from nginx import Nginx
from ports import free_port
from splitft import Job
from splitft.engines.network.transport import certs
from splitft.engines.network.transport.tokens import TOKEN, TOKENS, make_token
from splitft.job import dump_job

NAMES = ("north", "south")
PROXIES = {"nginx": Nginx, "envoy": Envoy}


def run_side(side: str, setting: dict[str, Any], authority: Path, folder: Path) -> dict[str, float]:
    """Run the job once; return its seconds, and megabytes each way."""
    folder.mkdir(parents=True)
    dump_job(Job(**setting, output_dir=str(folder / "run")), folder / "job.yaml")
    port = free_port()
    proxy = PROXIES[side](folder / "proxy", port, authority / "server") if side in PROXIES else None
    own = ["--tokens", authority / TOKENS] if proxy else ["--certs", authority / "server"]
    ways: dict[str, list[str | Path]] = {name: ["--certs", authority / name] for name in NAMES}
    if proxy:
        ways = {name: ["--ca", authority / certs.CA, "--token", authority / name / TOKEN] for name in NAMES}
    at = f"localhost:{proxy.port if proxy else port}"
    took = run_network(
        folder, setting["data_files"], port, at, own, ways, others=[proxy.process.pid] if proxy else []
    )
    if proxy:
        proxy.stop()
    return took


def main() -> None:
    """Measure, and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("hidden", 256), ("blocks", 4), ("rounds", 3), ("steps", 4), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--proxy", choices=PROXIES, default="nginx")
    options = parser.parse_args()
    sides = "direct", options.proxy
    scratch = Path(tempfile.mkdtemp(prefix="splitft-proxy-"))
    setting = make_job(scratch, NAMES, options)
    authority = scratch / "authority"
    certs.create_authority(authority)
    for name in NAMES:
        certs.add_client(authority, name)
        make_token(authority, name)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for repeat in range(options.repeats):
        for side in sides if repeat % 2 == 0 else sides[::-1]:
            found[side].append(run_side(side, setting, authority, scratch / f"{side}-{repeat}"))
            print(side, {key: round(value, 2) for key, value in found[side][-1].items()}, flush=True)
        both = [result_of(scratch / f"{side}-{repeat}") for side in sides]
        assert both[0] == both[1], "the results are not the same"
    print("the same adapter, bytes, losses and perplexities on both sides")
    result: dict[str, Any] = {"options": vars(options), "sides": {}}
    for key in ("wall", "cpu"):
        direct, behind = ([one[key] for one in found[side]] for side in sides)
        result["sides"][key] = {"direct": spread(direct), options.proxy: spread(behind)}
        result[f"{key}_ratio"] = ratio(behind, direct)
        print(f"{key}: {options.proxy} over direct {result[f'{key}_ratio']}")
    result["megabytes"] = {way: found["direct"][0][way] for way in ("up", "down")}
    save(result, RESULTS / f"proxy-{options.proxy}.json")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
