"""Defences of a client's answers, as experiments: a training with a defence, and attacks that know it."""
