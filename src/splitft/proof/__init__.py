"""Prove that a split model computes what the whole one does, or refuse it.

Reading order: harness (rows, differences, tolerances); split (question and report), trial, compare, training
(adapters in train mode), guards (against a proof that proves nothing); targets (what LoRA can adapt, and its
export), next_token, head, packed, parts, batched, attention (one more question each); every_type (all
architectures, each in a process of its own).
"""
