"""The report's section of what a server could read, from a real audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reference import make_setting
from splitft import Job, OutputError, run
from splitft.tools.audit.command import audit_command
from splitft.tools.audit.public import public_text
from splitft.tools.report.audit_section import TITLE, bars
from splitft.tools.report.page import render_page
from splitft.tools.report.runs import collect_runs

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run with its audit in its folder, and what the audit returned."""
    folder = tmp_path_factory.mktemp("audited")
    setting = make_setting(folder, "llama") | {"rounds": 1, "local_steps": 1, "clients": 2, "warmup_steps": 0}
    job = Job(**setting, output_dir=str(folder / "run"))
    run(job, console=QUIET)
    (folder / "public.txt").write_text(public_text(None)[:12000])
    told = audit_command(
        job, rows=3, run=folder / "run", public=folder / "public.txt", out=folder / "run", console=QUIET
    )
    return folder / "run", told


def page(folder: Path, **options: Any) -> str:
    return render_page(collect_runs([folder])[0], **options)


def test_a_bar_a_client_with_the_best_attack(audited: tuple[Path, dict[str, Any]]) -> None:
    folder, told = audited
    found = bars(told)
    cuts = {line["client"]: line["cut"] for line in told["lines"] if line["cut"]}
    assert [one.label for one in found] == [f"{name} (cut {cut})" for name, cut in cuts.items()]
    for one in found:
        lines = [
            line for line in told["lines"] if one.label.startswith(line["client"]) and line["of"] == "text"
        ]
        shares = [line["reading"]["tokens"]["value"] for line in lines if line["reading"]]
        assert one.value == max(shares) == 1.0, "labels: server sends the ids themselves"
        assert 0 < one.tick < one.value
    text = page(folder)
    assert TITLE in text and f"100% (guess {found[0].tick:.0%})" in text
    assert "Not tried: " in text and "low bits" in text and "files: ids, " in text
    assert "codec: delta" in text and "`" not in text.partition("Not tried: ")[2][:800]


def test_recovered_text_is_shown_with_consent_alone(audited: tuple[Path, dict[str, Any]]) -> None:
    folder, told = audited
    secret = told["samples"][0]["true"][:30].strip()
    assert len(secret) > 10
    assert secret not in page(folder)
    assert secret in page(folder, audit_samples=True)


def test_a_run_without_an_audit_has_no_such_section(
    audited: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    for file in ("job.yaml", "history.jsonl", "summary.json"):
        (tmp_path / file).write_bytes((audited[0] / file).read_bytes())
    assert TITLE not in page(tmp_path)
    (tmp_path / "audit.json").write_text(json.dumps({"lines": [{"of": "text"}]}))
    with pytest.raises(OutputError, match="is damaged"):
        page(tmp_path)


def test_an_audit_is_its_owners_alone(audited: tuple[Path, dict[str, Any]]) -> None:
    """It holds true text."""
    for file in ("audit.json", "audit.md"):
        assert (audited[0] / file).stat().st_mode & 0o777 == 0o600
