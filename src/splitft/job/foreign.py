"""Keys of Hugging Face's trainers and of peft that a job does not have, and what stands in their place."""

from __future__ import annotations

_BLOCKS = "an adapter is kept block by block, and embeddings and head lie outside the blocks"
_ONE_RANK = "all layers of a block have one rank and one scaling: set lora_r, lora_r_cut and lora_alpha"
_ONE_DEVICE = "a party computes on one device: delete this key"
_QUANTIZED = "no base is quantised here: name a quantised checkpoint as model_name_or_path"
_EVALUATION = "name files as eval_files or a split as dataset_test_split; without, eval_fraction is held out"
_FUNCTION = "a function, for splitft.run in Python; a job, and with it compare and networks, names `metrics`"
_A_AND_B = "an adapter is A and B alone: delete this key"

FOREIGN = {
    "adapter": "set adapter_name_or_path, to continue from one; every adapter is LoRA",
    "alpha_pattern": _ONE_RANK,
    "base_model": "set model_name_or_path",
    "bias": _A_AND_B,
    "block_size": "set max_length",
    "chat_template": "the tokenizer's own is used: set it there",
    "compute_metrics": _FUNCTION,
    "dataset_config": "set dataset_config_name",
    "dataset_train_split": "set dataset_split",
    "datasets": "set dataset_name or data_files",
    "deepspeed": _ONE_DEVICE,
    "device_map": _ONE_DEVICE,
    "do_eval": "set eval_every",
    "early_stopping_patience": "not there: set rounds; every round's adapter is written",
    "ensure_weight_tying": f"no tied layer can have an adapter: {_BLOCKS}",
    "eval_dataset": _EVALUATION,
    "eval_dataset_name": _EVALUATION,
    "eval_split": "set dataset_test_split",
    "eval_steps": "set eval_every, in rounds",
    "eval_strategy": "set eval_every, in rounds",
    "fp16": "set bf16: true",
    "fsdp": _ONE_DEVICE,
    "layers_pattern": "the block list is found without it: set layers_to_transform alone",
    "load_in_4bit": _QUANTIZED,
    "load_in_8bit": _QUANTIZED,
    "logging_steps": "every round is recorded: delete this key",
    "lora_bias": _A_AND_B,
    "lora_rank": "set lora_r",
    "lora_modules_to_save": f"not possible: {_BLOCKS}. Train the layer whole before, and delete this key",
    "lr": "set learning_rate",
    "max_seq_length": "set max_length",
    "micro_batch_size": "set per_device_train_batch_size",
    "modules_to_save": f"not possible: {_BLOCKS}. Train the layer whole before, and delete this key",
    "neftune_noise_alpha": "no noise is added to embeddings: delete this key; lora_dropout regularises",
    "preprocess_logits_for_metrics": _FUNCTION,
    "push_to_hub": "the folder `adapter` of a run can be uploaded as it is: delete this key",
    "quantization_config": _QUANTIZED,
    "r": "set lora_r",
    "rank": "set lora_r",
    "rank_pattern": _ONE_RANK,
    "resume_from_checkpoint": "give --resume to `splitft run`",
    "save_steps": "set save_every, in rounds",
    "save_strategy": "set save_every, in rounds",
    "streaming": "rows are read whole: set max_train_samples",
    "target_parameters": "set lora_target_parameters",
    "test_file": "set eval_files",
    "train_file": "set data_files",
    "trainable_token_indices": f"not possible: {_BLOCKS}. Train new tokens before, and delete this key",
    "trust_remote_code": "code that a checkpoint names is never run: choose a model of transformers' own",
    "validation_file": "set eval_files",
    "validation_split_percentage": "set eval_fraction, a share: 0.1",
}
