"""Devices and virtual time: what machines can do, what a model costs, and how long a round takes on them.

device, presets, profile: the machines. costs (matrices, probe): a model in plain numbers. flops, memory,
steps: functions of them. simulate, schedules: a round. clock: listens to a run.
"""
