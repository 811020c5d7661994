"""The job: one frozen description of a run. Every key is documented here, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler  # at the top only from 2.10 on
from pydantic_core import InitErrorDetails, PydanticCustomError

from splitft.job.algorithms import ObjectiveSettings, OptimSettings, ServerOptimizerSettings
from splitft.job.data import DataSettings, SeedSettings
from splitft.job.dp import DPSettings
from splitft.job.evaluation import MetricSettings, PlaceSettings, RowsSettings
from splitft.job.lora import LoraSettings
from splitft.job.nested import given_values, key_path
from splitft.job.privacy import PrivacySettings
from splitft.job.problems import job_error, problem_lines
from splitft.job.report import ReportSettings
from splitft.job.rules import RULE, broken_rules
from splitft.job.sections import PartitionConfig, Strict
from splitft.job.secure import SecureSettings
from splitft.job.settings import (
    AverageSettings,
    BatchSettings,
    CostSettings,
    DeviceSettings,
    FederationSettings,
    ModelSettings,
    NetworkSettings,
    OptimizerSettings,
    RunSettings,
    ScheduleSettings,
    SplitSettings,
    WireSettings,
)

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


class _ToldAsJobError(ModelMetaclass):
    """Has `Job(...)` raise JobError in the words of the command line; `Job.model_validate` is pydantic's."""

    def __call__(self, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            raise job_error("Job", problem_lines(error, Job)) from None


class Job(CostSettings, DeviceSettings, NetworkSettings, RunSettings, metaclass=_ToldAsJobError):
    """One run, complete. Keys known from the Hugging Face stack keep their names and meaning.

    Values are taken strictly: "5" is no integer, true is no number, an integer may stand for a float. Raises
    JobError with every problem at once, rules across keys (splitft.job.rules) among them.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _every_problem_at_once(cls, data: Any, handler: ModelWrapValidatorHandler[Job]) -> Job:
        """Check the rules across keys even where other keys are wrong, and report all together."""
        if not isinstance(data, Mapping):
            return handler(data)
        data = _imply_rounds(_imply_split_evaluation(_imply_clients(_imply_partition(data))))
        details: list[InitErrorDetails] = []
        wrong: set[str] = set()
        job = None
        try:
            job = handler(data)
        except ValidationError as error:
            for line in error.errors(include_url=False):
                loc = line["loc"]
                details.append(
                    InitErrorDetails(type=line["type"], loc=loc, input=line["input"], ctx=line.get("ctx", {}))
                )
                wrong.add(".".join(key_path(loc, cls)[0]))
        values = {key: value for key, value in given_values(data, cls) if key not in wrong}
        for key, problem in broken_rules(values):
            # The text goes in as context: as a template, braces in it would be read as fields.
            rule = PydanticCustomError(RULE, "{problem}", {"problem": problem})
            details.append(InitErrorDetails(type=rule, loc=tuple(key.split(".")), input=values[key]))
        if details or job is None:
            raise ValidationError.from_exception_data(cls.__name__, details)
        return job


# Headings of the job file and of the reference, each with the classes whose keys stand under it.
GROUPS: dict[str, tuple[type[Strict], ...]] = {
    "Model": (ModelSettings,),
    "Data": (DataSettings,),
    "Federation": (
        PrivacySettings,
        SplitSettings,
        ScheduleSettings,
        FederationSettings,
        PlaceSettings,
        RowsSettings,
        MetricSettings,
        AverageSettings,
        SecureSettings,
        ServerOptimizerSettings,
    ),
    "LoRA": (LoraSettings,),
    "Optimizer": (OptimSettings, OptimizerSettings, ObjectiveSettings, BatchSettings),
    "Privacy": (DPSettings,),
    "Wire": (WireSettings,),
    "Devices and network": (DeviceSettings, NetworkSettings),
    "The run": (SeedSettings, RunSettings, ReportSettings),
}


def grouped_keys() -> dict[str, list[str]]:
    """The job's keys under their headings, both in the order of the classes."""
    return {
        heading: [key for kind in kinds for key in kind.__annotations__] for heading, kinds in GROUPS.items()
    }


def _imply_split_evaluation(data: dict[str, Any]) -> dict[str, Any]:
    """A codec of held-out rows means that these cross the cut, unless stated otherwise."""
    return {"server_evaluates": False, **data} if data.get("eval_codec") else data


def _imply_clients(data: dict[str, Any]) -> dict[str, Any]:
    """network.clients means so many clients, unless their number is stated."""
    network = data.get("network")
    names = network.get("clients") if isinstance(network, Mapping) else getattr(network, "clients", None)
    return {"clients": len(names), **data} if isinstance(names, list) and names else data


def _imply_partition(data: Mapping[str, Any]) -> dict[str, Any]:
    """{client: file} means partition.method files, unless a method is stated."""
    implied = dict(data)
    partition = implied.get("partition", {})
    if isinstance(partition, PartitionConfig):
        partition = {key: getattr(partition, key) for key in partition.model_fields_set}
    if isinstance(implied.get("data_files"), Mapping) and isinstance(partition, Mapping):
        implied["partition"] = {"method": "files", **partition}
    return implied


def _imply_rounds(data: dict[str, Any]) -> dict[str, Any]:
    """max_steps states the rounds, where it is a whole number of them."""
    steps, per_round = data.get("max_steps"), data.get("local_steps", Job.model_fields["local_steps"].default)
    if all(type(count) is int and count > 0 for count in (steps, per_round)) and steps % per_round == 0:
        data["rounds"] = steps // per_round
    return data
