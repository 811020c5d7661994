"""What a fork server imports once for all processes of these tests: most of their start is spent on it."""

from importlib import import_module

for name in (
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "peft",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "splitft.launch.cli",
    "splitft.engines.network.aggregator_process",
    "splitft.running.join",
    "splitft.running.serve",
):
    import_module(name)
