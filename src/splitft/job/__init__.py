"""The job: one YAML file, strict, every error at once.

settings, sections: the keys, each documented once. model: all of them. nested: groups of keys. rules: what
ties keys together. file: reading, overrides, writing. problems, describe: errors as a person reads them.
yaml: strict YAML.
"""

from __future__ import annotations

from splitft.job.file import JobSource, dump_job, job_schema, load_job, make_job
from splitft.job.model import Job, grouped_keys
from splitft.job.sections import CutPolicyConfig, DeviceProfile, PartitionConfig

__all__ = [
    "CutPolicyConfig",
    "DeviceProfile",
    "Job",
    "JobSource",
    "PartitionConfig",
    "dump_job",
    "grouped_keys",
    "job_schema",
    "load_job",
    "make_job",
]
