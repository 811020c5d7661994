"""The command `splitft check`: what it prints and its exit codes, for one model and for all types."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from commands import splitft
from splitft.errors import ModelError
from splitft.launch.check import architecture_table, check_command, totals
from splitft.proof.every_type import check_all_architectures, default_config
from splitft.proof.split import check_split
from tiny import save_tiny_model, tiny_config


def told(model: str, cuts: list[int] | None = None) -> tuple[int, str]:
    out = io.StringIO()
    report = check_command(model, cuts, Console(file=out, width=200))
    return 0 if report.ok else ModelError.exit_code, out.getvalue()


def test_the_command_checks_a_folder(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "qwen3")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()  # only the configuration is read
    code, text = told(str(folder), [1, 3])
    assert code == 0
    for words in ("4 in model.layers (Qwen3DecoderLayer)", "1, 3", "dummy_ids", "exact"):
        assert words in text
    assert check_split(str(folder)).ok


def test_the_command_refuses_with_its_code(tmp_path: Path) -> None:
    default_config("xlm").save_pretrained(tmp_path)
    code, text = told(str(tmp_path))
    assert code == 4 and "refused" in text and "logits differ" in text


def test_the_command_names_the_possible_cuts(tmp_path: Path) -> None:
    tiny_config("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="choose cuts from 1 to 3"):
        told(str(tmp_path), [9])


def test_a_job_is_checked_with_its_own_adapters_and_forms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    default_config("qwen3_moe").save_pretrained(tmp_path / "model")
    job = tmp_path / "job.yaml"
    job.write_text(
        f"{{model_name_or_path: {tmp_path / 'model'}, data_files: nowhere.txt, cuts: [5, 20], clients: 2}}"
    )
    asked = ["lora_target_modules=[q_proj]", "lora_target_parameters=[mlp.experts.down_proj]", "lora_r=3"]
    assert not splitft("check", str(job), *asked, "server_batch_tokens=99", monkeypatch=monkeypatch)
    told = " ".join(capsys.readouterr().out.split())
    assert "cuts 5, 20" in told and "LoRA on q_proj, mlp.experts.down_proj; rank 3" in told
    assert "clients together no, one at a time: adapters on fused experts" in told and "verdict exact" in told
    assert splitft("check", str(job), "lora_target_modules=[down]", monkeypatch=monkeypatch) == 4
    assert splitft("check", str(job), "cuts=24", monkeypatch=monkeypatch) == 2
    assert splitft("check", str(tmp_path / "model"), "rounds=2", monkeypatch=monkeypatch) == 2
    err = capsys.readouterr().err
    for words in (
        "no linear layer of a block is called down",
        "between 1 and 23",
        "rounds=2 goes with a JOB",
    ):
        assert words in err


def test_layers_of_blocks_that_the_small_copy_lacks_are_checked_in_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_config("llama", num_hidden_layers=30).save_pretrained(tmp_path / "model")
    job = tmp_path / "job.yaml"
    job.write_text(
        f"{{model_name_or_path: {tmp_path / 'model'}, data_files: nowhere.txt, cuts: 9, lora_r: 4}}"
    )
    for asked, names in {
        "layers_to_transform=[20, 29]": "self_attn.q_proj, self_attn.v_proj",
        r"lora_target_modules=.*\.2[0-9]\..*(q|up)_proj": "self_attn.q_proj, mlp.up_proj",
        "lora_target_modules=[model.layers.28.mlp.up_proj]": "mlp.up_proj",
    }.items():
        assert not splitft("check", str(job), asked, "use_dora=true", monkeypatch=monkeypatch)
        told = " ".join(capsys.readouterr().out.split())
        assert f"LoRA on {names}; rank 4" in told and "verdict exact" in told
    assert splitft("check", str(job), "layers_to_transform=30", monkeypatch=monkeypatch) == 4
    assert "it has no block 30" in capsys.readouterr().err


def test_a_model_without_recomputation_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    default_config("ctrl").save_pretrained(tmp_path / "model")
    asked = [f"model_name_or_path={tmp_path / 'model'}", "lora_target_modules=all-linear"]
    assert splitft("check", "fixed-cuts", *asked, "gradient_checkpointing=true", monkeypatch=monkeypatch) == 4
    assert "Set gradient_checkpointing: false." in capsys.readouterr().err


def test_a_missing_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder"):
        told(str(tmp_path / "nowhere"))


def test_all_architectures_survive_a_bad_one() -> None:
    seen: list[tuple[str, int, int]] = []
    names = ["gpt2", "no_such_type", "xlm", "zamba2"]
    reports = check_all_architectures(lambda r, done, of: seen.append((r.model_type, done, of)), names)
    verdicts = {report.model_type: report.verdict for report in reports}
    assert verdicts == {
        "gpt2": "exact",
        "no_such_type": "could not be built",
        "xlm": "refused",
        "zamba2": "exact with real ids",
    }
    assert seen == [(name, i + 1, 4) for i, name in enumerate(names)]
    assert totals(reports) == (
        "4 types: 1 exact, 1 exact with real ids, 0 splits only, 1 refused, 1 could not be built"
    )
    assert architecture_table(reports).row_count == 4


def test_a_type_that_hangs_is_given_up() -> None:
    (report,) = check_all_architectures(model_types=["zamba"], seconds_a_type=0.01)
    assert report.verdict == "could not be built" and "longer than" in report.reason
