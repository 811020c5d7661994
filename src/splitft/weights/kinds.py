"""The kinds of models that a configuration can describe: next-token models, and those that are refused."""

from __future__ import annotations

import re
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PreTrainedConfig,
)

from splitft.errors import ModelError

_TRAINS = "SplitFT trains models that predict the next token of one text"
_CHOOSE = "choose a causal LM (`splitft check --all-architectures` lists them)"
# Heads of other tasks, by the name of the class that a checkpoint's `architectures` states.
_OTHER_TASKS = {
    r"\w*(SequenceClassification|Reward|RewardModel)": "scores a whole text (a classifier or reward model)",
    r"\w+ForImageClassification": "classifies images",
    r"\w+ForTokenClassification": "gives every token a class",
    r"\w+ForQuestionAnswering\w*": "marks answers in a text",
    r"\w+For(MultipleChoice|NextSentencePrediction)": "chooses between texts",
    r"\w+For(MaskedLM|PreTraining)": "fills in masked tokens",
    r"\w*Diffusion\w*": "generates text by diffusion",
}  # fmt: skip


def causal_class(config: PreTrainedConfig) -> tuple[Any, PreTrainedConfig]:
    """The next-token class of a configuration, and the part of the configuration that it is built from.

    A composite configuration whose causal class is its text model's gives its text part. A vision-language
    model without a causal class gives its own class: rows of text run its text model alone.
    Raises ModelError where the installed transformers has neither.
    """
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None) or _class_of_text_part(config)
    if sees_images(config):
        model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
        judge: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), model_class)
        if problem := _encoder_decoder(config) or _other_task(judge.__name__):
            raise ModelError(f"model type {config.model_type!r} {problem}")
    if model_class is None:
        missing = (
            f"has no causal language model in the installed transformers: {_CHOOSE}, or update transformers"
        )
        raise ModelError(f"model type {config.model_type!r} {_encoder_decoder(config) or missing}")
    for name in config.sub_configs:
        if type(getattr(config, name, None)) is model_class.config_class:
            return model_class, getattr(config, name)
    return model_class, config


def _class_of_text_part(config: PreTrainedConfig) -> Any:
    """Return the causal class of a text part alone, which no auto class knows; None: there is none."""
    package = type(config).__module__.split(".")[-2:][0]  # transformers.models.mllama.configuration_mllama
    if package not in CONFIG_MAPPING:
        return None
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(CONFIG_MAPPING[package], None)
    return model_class if getattr(model_class, "config_class", None) is type(config) else None


def sees_images(config: PreTrainedConfig) -> bool:
    """Whether a model's next-token class is that of a vision-language model."""
    kind = type(config)
    return kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and kind not in MODEL_FOR_CAUSAL_LM_MAPPING


def image_tokens(config: PreTrainedConfig) -> dict[str, int]:
    """The token ids in whose place a vision-language model puts images, by the names of their settings."""
    found = vars(config) if sees_images(config) else {}
    pattern = re.compile(r"(image|video|vision|audio)(_\w+)?_token_(id|index)")
    return {name: i for name, i in found.items() if pattern.fullmatch(name) and isinstance(i, int)}


def auto_class(config: PreTrainedConfig) -> str:
    """The auto class of transformers that loads the model which an exported adapter belongs to."""
    return "AutoModelForImageTextToText" if sees_images(config) else "AutoModelForCausalLM"


def refuse_other_kinds(name: object, config: PreTrainedConfig) -> None:
    """Raise ModelError where a model is no next-token model, with the true reason. name: of the model."""
    problem = _encoder_decoder(config)
    for architecture in config.architectures or ():
        problem = problem or _other_task(architecture)
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and getattr(config, "is_decoder", None) is False:
        problem = problem or f"is a masked language model, whose tokens see later ones; {_TRAINS}: {_CHOOSE}"
    if problem:
        raise ModelError(f"{name} ({config.model_type}) {problem}")
    try:
        causal_class(config)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None


def _encoder_decoder(config: PreTrainedConfig) -> str:
    if not config.is_encoder_decoder:
        return ""
    return f"is an encoder-decoder model, which reads one text and writes another; {_TRAINS}: {_CHOOSE}"


def _other_task(architecture: str) -> str:
    does = next((does for name, does in _OTHER_TASKS.items() if re.fullmatch(name, architecture)), "")
    return f"is a {architecture}, which {does}; {_TRAINS}: {_CHOOSE}" if does else ""
