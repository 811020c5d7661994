"""The ClientApp: takes part in one run as `splitft client` does, and returns its last figures."""

from __future__ import annotations

import sys
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from splitft.engines.network.site import Site
from splitft.errors import JobError, LostError, SplitFTError
from splitft.history import scores
from splitft.launch.flower.ticket import Ticket, check_pin
from splitft.running.join import join

METRICS, FAILURE = "metrics", "failure"
PATIENCE_SECONDS = 30.0  # without a server; a SuperNode runs one app at a time, and another run may wait
SETTINGS = {
    "name": str, "data": str, "eval-data": str, "job-data": bool, "model": str, "folder": str,
    "policy": str, "accept": str,
}  # fmt: skip

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Take part until the run ends; the reply holds the client's figures, or the reason of its failure.

    Raises LostError; a server that is still there has the app started again.
    """
    try:
        site = take_part(Ticket.read(message.content), dict(context.node_config))
    except LostError:
        raise
    except SplitFTError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return Message(RecordDict({FAILURE: ConfigRecord({"reason": str(error)})}), reply_to=message)
    return Message(RecordDict({METRICS: figures(site)}), reply_to=message)


def take_part(ticket: Ticket, settings: dict[str, object]) -> Site:
    """Take part with the data of this node's --node-config. Raises SplitFTError."""
    unknown = [key for key, value in settings.items() if not isinstance(value, SETTINGS.get(key, type(None)))]
    if unknown:
        raise JobError(
            f"--node-config {', '.join(unknown)}: there is name, data, eval-data, model, folder, policy, "
            "accept (texts) and job-data (true)"
        )
    name = settings.get("name", ticket.name)
    if name != ticket.name:
        raise JobError(
            f"this SuperNode is called {name}, but its key is registered as {ticket.name}: start it with "
            f"the key of {name}, or register the key again (flwr supernode register --name)"
        )
    check_pin(ticket)
    keys = ("data", "eval-data", "model", "folder", "policy", "accept")
    data, eval_data, model, folder, policy, accept = (str(settings.get(key, "")) for key in keys)
    return join(
        ticket.endpoint,
        ticket.name,
        data=Path(data) if data else None,
        eval_data=Path(eval_data) if eval_data else None,
        job_data=settings.get("job-data") is True,
        model=model or None,
        authority=ticket.authority.encode(),
        token=ticket.token,
        patience=PATIENCE_SECONDS,
        policy=Path(policy) if policy else None,
        accept=accept,
        folder=Path(folder or f"runs/{ticket.name}"),
    )


def figures(site: Site) -> MetricRecord:
    """Return a client's rows, and the perplexity and accuracy of its held-out rows at the last evaluation."""
    if not site.joined:  # the run was over when it came
        return MetricRecord({"rows": 0})
    data = site.client.data
    perplexity, accuracy, _ = scores(site.evaluated)
    found = {"perplexity": perplexity, "accuracy": accuracy}
    record = MetricRecord({"rows": len(data.train), "eval_rows": len(data.eval)})
    record.update({key: value for key, value in found.items() if value is not None})
    return record
