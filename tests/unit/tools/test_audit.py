"""`splitft audit`: what it reads of messages that hold the text, of noise, and of planted leaks."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

import splitft
from commands import splitft as command
from reference import make_setting, write_rows
from splitft import DataError, Job
from splitft.model.slots import AdapterSlots
from splitft.model.split_model import SplitModel
from splitft.running.prepare import Assembly, assemble
from splitft.tools.audit.attacks.inverter import Inverter, make_inverter
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.attacks.labels import PublicTail, labels_of
from splitft.tools.audit.attacks.successors import Successors
from splitft.tools.audit.attacks.verify import Noise, measure_noise, repair
from splitft.tools.audit.attacks.view import ClientView
from splitft.tools.audit.capture import audited, capture, true_rows
from splitft.tools.audit.command import audit_command
from splitft.tools.audit.haystacks import of_message
from splitft.tools.audit.lines import TruthOf, truth_of
from splitft.tools.audit.nulls import other_rows, same_moments
from splitft.tools.audit.public import public_rows, public_text
from splitft.tools.audit.search import RowSearch
from splitft.tools.audit.tables import NOT_TRIED
from tiny import MODEL_TYPES, VOCAB_SIZE, tiny_model, tiny_tokenizer

QUIET = Console(quiet=True)
SOURCE = Path(splitft.__file__).parent
ROWS, CUT = 24, 1


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("audit")
    made = make_setting(folder, "llama", num_hidden_layers=4, hidden_size=64)
    return made | {
        "data_files": str(write_rows(folder / "rows.txt", rows=90)), "clients": 2, "cuts": [1, 2],
        "rounds": 1, "local_steps": 1, "labels": "client", "warmup_steps": 0,
        "per_device_train_batch_size": 4, "max_length": 32, "adapter_name_or_path": None,
        "output_dir": str(folder / "run"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def start(settings: dict[str, Any]) -> Assembly:
    return assemble(audited(Job(**settings), ROWS), QUIET)


@pytest.fixture(scope="module")
def views(start: Assembly) -> list[ClientView]:
    return capture(start, answered=4)


@pytest.fixture(scope="module")
def knowledge(start: Assembly) -> ServerKnowledge:
    public = public_rows(start.tokenizer, public_text(None))[:250]
    return ServerKnowledge(start.split_model, start.job, start.adapter, public)


@pytest.fixture(scope="module")
def truth(start: Assembly, knowledge: ServerKnowledge, views: list[ClientView]) -> TruthOf:
    own = [ids.tolist() for ids in start.clients[0].train.input_ids]
    return truth_of(knowledge, true_rows(start, views[0]), own, ROWS)


@pytest.fixture(scope="module")
def inverter(knowledge: ServerKnowledge) -> Inverter:
    return inverter_at(knowledge, CUT)


def came(views: list[ClientView], truth: TruthOf) -> list[Tensor]:
    return views[0].samples(truth.places)


def inverter_at(knowledge: ServerKnowledge, cut: int) -> Inverter:
    return make_inverter(knowledge, knowledge.through_codec(knowledge.front(knowledge.public, cut)))


def guess_of(inverter: Inverter, rows: list[Tensor]) -> list[Tensor]:
    return [inverter.candidates(row, 1)[:, 0] for row in rows]


def test_attacks_import_nothing_of_the_client() -> None:
    """Neither themselves nor through what they import."""
    waiting = list((SOURCE / "tools/audit/attacks").glob("*.py"))
    seen: set[Path] = set()
    assert len(waiting) > 4
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith(("splitft.client", "splitft.tools.audit.capture")), path
                here = SOURCE.parent / name.replace(".", "/")
                files = here.with_suffix(".py"), here / "__init__.py"
                waiting += [file for file in files if name.startswith("splitft.") and file.exists()]


def test_rows_are_those_behind_the_messages(
    start: Assembly, views: list[ClientView], knowledge: ServerKnowledge
) -> None:
    for view in views:
        rows = true_rows(start, view)
        assert [len(row.ids) for row in rows] == view.lengths
        sent = knowledge.front([row.ids for row in rows], view.cut)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(sent, view.rows, strict=True))


def test_activations_are_readable_and_a_step_trains_nothing(
    views: list[ClientView], truth: TruthOf, inverter: Inverter, start: Assembly
) -> None:
    """The weights are random, and the server knows them: that is enough."""
    reading = truth.score(guess_of(inverter, came(views, truth)), 0)
    assert reading.tokens.value >= 0.4 and reading.tokens.low > 0.05
    assert reading.verdict in ("readable", "partly readable")
    assert all((t == 0).all() for b in start.adapter.values() for n, t in b.items() if ".lora_B." in n)


def test_nothing_is_read_where_there_is_nothing(
    views: list[ClientView], truth: TruthOf, inverter: Inverter
) -> None:
    rows = came(views, truth)
    for guess in (
        other_rows(guess_of(inverter, rows)),
        guess_of(inverter, same_moments(rows, seed=1)),
    ):
        reading = truth.score(guess, 0)
        assert reading.tokens.excess <= 0.03 and reading.verdict == "too few rows to tell"


def test_random_weights_that_the_attacker_lacks_read_as_guessing(
    start: Assembly, views: list[ClientView], truth: TruthOf
) -> None:
    other = tiny_model("llama", seed=99, num_hidden_layers=4, hidden_size=64)
    public = public_rows(start.tokenizer, public_text(None))[:250]
    foreign = ServerKnowledge(SplitModel(other, AdapterSlots(other)), start.job, {}, public)
    reading = truth.score(guess_of(inverter_at(foreign, CUT), came(views, truth)), 0)
    assert reading.tokens.excess <= 0.03


def test_more_noise_never_reads_more(views: list[ClientView], truth: TruthOf, inverter: Inverter) -> None:
    rows = came(views, truth)
    size = torch.cat(rows).pow(2).mean().sqrt()
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(row.shape, generator=generator) * size for row in rows]
    read = [
        truth.score(
            guess_of(inverter, [r + by * n for r, n in zip(rows, noise, strict=True)]), 0
        ).tokens.value
        for by in (0.0, 0.3, 1.0, 3.0)
    ]
    assert all(later <= before + 0.02 for before, later in pairwise(read)), read
    assert read[0] > read[-1] + 0.2


def test_verifying_repairs_the_guess(
    knowledge: ServerKnowledge, views: list[ClientView], truth: TruthOf, inverter: Inverter
) -> None:
    rows = came(views, truth)[:4]
    noise = measure_noise(knowledge, CUT)
    repaired = truth.score(repair(knowledge, CUT, rows, inverter, noise), 0).tokens.value
    assert repaired >= truth.score(guess_of(inverter, rows), 0).tokens.value


def test_an_exact_guess_stays_and_one_wrong_token_is_repaired(
    knowledge: ServerKnowledge, truth: TruthOf
) -> None:
    class Nearly:
        def candidates(self, rows: Tensor, count: int) -> Tensor:
            ids = next(row.ids for row in truth.rows if len(row.ids) == len(rows))
            wrong = (ids + 1) % VOCAB_SIZE
            best = ids.clone()
            best[len(ids) // 2] = wrong[len(ids) // 2]
            return torch.stack([best, ids, wrong], 1)[:, :count]

    row = max((row.ids for row in truth.rows), key=len)
    observed = knowledge.front([row], 2)
    noise = Noise(torch.ones(observed[0].shape[1]), 1e-6)
    (found,) = repair(knowledge, 2, observed, Nearly(), noise)  # type: ignore[arg-type]
    assert found.tolist() == row.tolist()


def test_verifying_reads_nothing_of_noise(
    knowledge: ServerKnowledge, views: list[ClientView], truth: TruthOf, inverter: Inverter
) -> None:
    rows = same_moments(came(views, truth), seed=2)[:4]
    found = repair(knowledge, CUT, rows, inverter, measure_noise(knowledge, CUT))
    reading = truth.score(found, 0)
    assert reading.tokens.excess <= 0.05 and reading.verdict == "too few rows to tell"


def test_labels_follow_from_the_gradients_of_a_tail(
    knowledge: ServerKnowledge, views: list[ClientView], truth: TruthOf
) -> None:
    found = labels_of(knowledge, views[0], PublicTail(knowledge, 1), truth.places[:4])
    reading = truth.score([found[place] for place in truth.places[:4]], 0, labels=True)
    assert reading.tokens.value >= 0.9


@pytest.fixture
def blind(views: list[ClientView]) -> Iterator[Any]:
    """A message whose activations are noise."""
    message = views[0].activations[0]
    noise = same_moments([message.hidden.float()], 0)[0]
    yield replace(message, hidden=noise)


@pytest.fixture
def search(truth: TruthOf) -> RowSearch:
    return RowSearch(tiny_tokenizer(), [row.ids for row in truth.rows], short=True)


@pytest.mark.parametrize(
    "field", ["labels", "input_ids", "samples", "grad_norms", "packed", "header", "names", "text", "bytes"]
)
def test_ids_and_text_are_found_in_every_field(
    blind: Any, truth: TruthOf, search: RowSearch, field: str
) -> None:
    ids = torch.cat([row.ids for row in truth.rows])
    text = " ".join(tiny_tokenizer().decode(row.ids) for row in truth.rows)
    place, planted = {
        "labels": ("labels", ids.int()),
        "input_ids": ("input_ids", ids.int()),
        "samples": ("samples", tuple(ids.tolist())),
        "grad_norms": ("grad_norms", ids.float()),
        "packed": ("packed", (ids.double(),)),
        "header": ("samples", {"rows": [{"ids": ids.tolist()}]}),
        "names": ("samples", f"seen {ids.tolist()}"),
        "text": ("samples", text),
        "bytes": ("packed", (torch.tensor(list(text.encode()), dtype=torch.uint8),)),
    }[field]  # fmt: skip
    (hay,) = (hay for hay in of_message(replace(blind, **{place: planted})) if hay.name == place)
    found = search.as_text(hay.texts) if field in ("text", "bytes") else search.as_ids(hay.numbers)
    reading = truth.score([found.get(i, row.ids * 0 - 1) for i, row in enumerate(truth.rows)], 0)
    assert reading.tokens.value >= 0.95 and reading.verdict == "readable"


def test_no_ids_are_found_where_none_are_sent(blind: Any, search: RowSearch) -> None:
    for hay in of_message(blind):
        assert not search.as_ids(hay.numbers) and not search.as_text(hay.texts)


def test_what_the_search_does_not_see_is_listed(blind: Any, truth: TruthOf, search: RowSearch) -> None:
    """Ids in the low bits of the activations."""
    ids = torch.cat([row.ids for row in truth.rows])
    bits = blind.hidden.float().flatten().view(torch.int32)
    bits[: len(ids)] = (bits[: len(ids)] & ~0x1FF) | ids.int()
    (hay,) = (
        hay for hay in of_message(replace(blind, hidden=bits.view(torch.float32))) if hay.name == "hidden"
    )
    assert not search.as_ids(hay.numbers)
    assert any("low bits" in one for one in NOT_TRIED)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_candidates_in_one_row_have_the_activations_of_rows_of_their_own(
    model_type: str, start: Assembly
) -> None:
    model = tiny_model(model_type)
    public = public_rows(start.tokenizer, public_text(None))[:40]
    known = ServerKnowledge(SplitModel(model, AdapterSlots(model)), start.job, {}, public)
    together = Successors(known, 2)
    prefixes = [public[3][:7], public[9][:1], public[5][:20]]
    candidates = [torch.arange(2, 30), torch.arange(50, 53), torch.tensor([7])]
    apart = [
        torch.stack([known.front([torch.cat([p, one[None]])], 2)[0][-1] for one in c])
        for p, c in zip(prefixes, candidates, strict=True)
    ]
    found = together.states(prefixes, candidates)
    assert together.together is (model_type not in ("gpt_neo", "gemma3_text")), "their attention is local"
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(found, apart, strict=True))


def test_a_model_that_takes_no_such_mask_gets_rows(
    knowledge: ServerKnowledge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it ignored the mask: what it computes then is not taken."""
    run = SplitModel.run

    def causal(self: SplitModel, *where: Any, attention_mask: Tensor, **inputs: Any) -> Any:
        usual = (
            attention_mask if attention_mask.ndim == 2 else torch.ones_like(attention_mask[:, 0, 0]).long()
        )
        return run(self, *where, attention_mask=usual, **inputs)

    monkeypatch.setattr(SplitModel, "run", causal)
    known = Successors(knowledge, 2)
    assert not known.together
    row = knowledge.public[0][:5]
    (found,) = known.states([row[:4]], [row[4:]])
    assert torch.allclose(found[0], knowledge.front([row], 2)[0][-1], atol=1e-5)


def test_four_rows_are_too_few_to_say_that_nothing_is_read(truth: TruthOf) -> None:
    few = replace(truth, rows=truth.rows[:4], places=truth.places[:4], model=truth.model[:4])
    reading = few.score([torch.full_like(row.ids, -1) for row in few.rows], 0)
    assert reading.verdict == "too few rows to tell"


def test_the_command_prints_and_writes(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitft.job import dump_job

    dump_job(Job(**settings), tmp_path / "job.yaml")
    text = (SOURCE / "tools/audit/public.txt").read_text()
    out, public = tmp_path / "audit", tmp_path / "public.txt"
    public.write_text(text[:12000])
    code = command(
        "audit", tmp_path / "job.yaml", "labels=server", "--rows", "8", "--out", out, "--fail-above", "0.3",
        "--public", public,
        monkeypatch=monkeypatch,
    )  # fmt: skip
    told = json.loads((out / "audit.json").read_text())
    assert code == 10
    assert {line["cut"] for line in told["lines"]} == {1, 2}
    texts = [line for line in told["lines"] if line["attack"] == "ids as ids"]
    assert all(line["verdict"] == "readable" and "labels" in line["note"] for line in texts)
    assert all(check["ok"] for check in told["checks"]) and len(told["checks"]) == 3
    assert told["samples"] and told["not_tried"]
    assert "| client-0 | 1 | text | inverter |" in (out / "audit.md").read_text()


@pytest.mark.parametrize(
    ("text", "wanted"), [(None, "cannot be read"), ("A short text.", "are needed at least")]
)
def test_a_public_text_that_is_none(
    settings: dict[str, Any], tmp_path: Path, text: str | None, wanted: str
) -> None:
    file = tmp_path / "public.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=wanted):
        audit_command(Job(**settings), rows=4, public=file, console=QUIET)


def test_a_job_that_sends_no_activations(settings: dict[str, Any]) -> None:
    told = audit_command(Job(**settings | {"method": "fed_lora", "labels": "server"}), rows=4, console=QUIET)
    assert [line["verdict"] for line in told["lines"]] == ["not sent"]
