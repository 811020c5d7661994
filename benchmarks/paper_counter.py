"""The published traffic of the SplitFT paper, derived from first principles. Pure arithmetic, nothing fitted.

The paper's two tables show traffic that is, to the last digit, what a public example of split learning counts
under the paper's settings (Plato, TL-System/plato, examples/split_learning/llm_split_learning: GPT-2, LoRA on
c_attn and c_proj, batches of 4, 20 steps a turn, one client at a time). So this is that example's counter:
it adds up `sys.getsizeof(pickle.dumps(payload)) / 1024**2` of every payload, both ways. Its "MB" is MiB.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20
FLOAT = 4  # bytes; everything is float32, the label ids too (the example makes a float tensor of them)

# Shapes: stated by the paper, except the 128 tokens, which the bytes of a step give away (see STEP below).
BATCH, TOKENS, HIDDEN = 4, 128, 768
ACTIVATIONS = BATCH * TOKENS * HIDDEN * FLOAT  # 1.5 MiB, and as much for their gradient
LABELS = BATCH * TOKENS * FLOAT

# LoRA on c_attn (768 -> 2304) and both c_proj (768 -> 768, 3072 -> 768): A has `in`, B has `out` values for
# each unit of rank.
VALUES_PER_RANK = (768 + 2304) + (768 + 768) + (3072 + 768)  # 8448 in a block
RANK = 16

# What pickling adds, counted on these structures with torch 2.13 and Python 3.11 (other versions: some bytes
# more or less; all of it together is 0.04 % of the total). Each includes the 33 bytes that sys.getsizeof adds
# for the bytes object. For example:
#   h, y = torch.zeros(4, 128, 768), torch.zeros(4, 128)
#   sys.getsizeof(pickle.dumps([(h, y)])) - 4 * (h.numel() + y.numel())  ->  751
FEATURES_ENVELOPE = 751  # [(activations, labels)]
GRADIENTS_ENVELOPE = 472  # ([gradient], "gradients")
PROMPT = 57  # (None, "prompt"): the server asks a client for its first batch of a turn
ADAPTER_ENVELOPE = 139  # {name: tensor}
BLOCK_ENVELOPE = (
    2155  # of its six tensors, names such as base_model.model.transformer.h.0.attn.c_attn.lora_A...
)

# "Up to 1200 rounds": a round of that example is one upload. A turn has 20 uploads of activations and then
# one of the client's adapter, so 1200 rounds are 57 turns and the first 3 steps of the next.
ROUNDS, STEPS_PER_TURN = 1200, 20
TURNS, REST = divmod(ROUNDS, STEPS_PER_TURN + 1)
STEPS = TURNS * STEPS_PER_TURN + REST  # 1143
# A gradient travels down when its client is next asked for something; the last one never does.
GRADIENTS = STEPS - 1

FIRST = PROMPT + ACTIVATIONS + LABELS + FEATURES_ENVELOPE  # 1.50272 MiB
STEP = ACTIVATIONS + LABELS + FEATURES_ENVELOPE + ACTIVATIONS + GRADIENTS_ENVELOPE  # 3.00312 MiB, up and down


@dataclass(frozen=True)
class Cell:
    """A published cell; r_cut of RANK means no reduction. mib: as printed, one decimal."""

    table: str
    cut: int
    r_cut: int
    mib: float


# Table I has r_cut 8. Its "none" is cut 2 with rank 16 everywhere: no rank reduction, not "no cut".
# Table II has cut 2; its r_cut 8 is Table I's cut 2.
CELLS = (
    Cell("I, cut 2 (II, r_cut 8)", 2, 8, 3475.4),
    Cell("I, cut 4", 4, 8, 3534.4),
    Cell("I, cut 6", 6, 8, 3593.4),
    Cell("I, cut 8", 8, 8, 3652.4),
    Cell("I, cut 10", 10, 8, 3711.4),
    Cell("I, none", 2, RANK, 3490.1),
    Cell("II, r_cut 1", 2, 1, 3462.5),
    Cell("II, r_cut 2", 2, 2, 3464.3),
    Cell("II, r_cut 4", 2, 4, 3468.0),
)


def adapter_upload_bytes(cut: int, r_cut: int) -> int:
    """Bytes of one pickled upload of a client's adapter: rank r_cut in its last block, RANK in the others."""
    values = VALUES_PER_RANK * (RANK * (cut - 1) + r_cut)
    return FLOAT * values + ADAPTER_ENVELOPE + BLOCK_ENVELOPE * cut


def total_bytes(cut: int, r_cut: int) -> int:
    """Bytes of the whole published run: steps, prompts and adapters, both ways."""
    features = STEPS * (ACTIVATIONS + LABELS + FEATURES_ENVELOPE)
    gradients = GRADIENTS * (ACTIVATIONS + GRADIENTS_ENVELOPE)
    prompts = (TURNS + (REST > 0)) * PROMPT
    return features + gradients + prompts + TURNS * adapter_upload_bytes(cut, r_cut)
