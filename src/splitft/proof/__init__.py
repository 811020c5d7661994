"""Prove that a split model computes what the whole one does, or refuse it.

Reading order: harness (rows, differences, tolerances); split (question and report), trial, compare, guards
(against a proof that proves nothing); head, packed, batched (one more question each); every_type (all
architectures, each in a process of its own).
"""
