"""A client's part in masked sums, as a job and the site's policy have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from splitft.engines.network.client_sums import ClientSums, NoSums
from splitft.engines.network.sum_record import SumRecord
from splitft.engines.network.transport.signing import CertificateSignatures
from splitft.errors import JobError, NetworkError
from splitft.job.settings import TrainingSettings
from splitft.job.site_policy import SitePolicy
from splitft.wire.secagg.roll import LEAST, Signatures, Unsigned

UNSIGNED = (
    "secure aggregation without certificates: clients cannot check whose keys these are, so a dishonest "
    "server could put keys of its own in their place and read this client's adapter; --certs signs them"
)


def no_sums(job: TrainingSettings, names: Sequence[str], fewest: int | None) -> NoSums:
    """Return the part in no sums. Raises JobError where a job has some; for the arguments see `sums_of`."""
    if job.secure_aggregation:
        raise JobError("secure_aggregation needs a client that keeps a record of its sums in a folder")
    return NoSums()


def renewed(certs: Path) -> Callable[[], Signatures]:
    """Return what signs with the certificate of a folder as it then is, or as it last could sign.

    Raises NetworkError where it cannot sign now.
    """
    last = CertificateSignatures(certs)

    def now() -> Signatures:
        nonlocal last
        with suppress(NetworkError):
            last = CertificateSignatures(certs)
        return last

    return now


def sums_of(
    name: str,
    certs: Path | None,
    folder: Path,
    policy: SitePolicy,
    say: Callable[[str], None],
    job: TrainingSettings,
    names: Sequence[str],
    fewest: int | None,
) -> NoSums:
    """Return a client's part in the sums of a job.

    Args:
        name: The client.
        certs: Folder of its certificate. None: keys are not signed, and `say` is told so.
        folder: The client's, for the record of its sums.
        policy: Of its owner.
        say: Prints a line.
        job: As the server told it.
        names: All clients of the job.
        fewest: The job's `network.min_clients`.

    Raises NetworkError where the certificate cannot sign.
    """
    if not job.secure_aggregation:
        return NoSums()
    signatures: Callable[[], Signatures] = Unsigned
    if certs is not None:
        signatures = renewed(certs)
    else:
        say(UNSIGNED)
    least = max(LEAST, fewest or 0, policy.min_clients_in_sum or 0)
    return ClientSums(name, job, names, least, signatures, SumRecord(folder))
