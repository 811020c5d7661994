"""Mistakes of an operator of a server and its clients."""

from __future__ import annotations

from mistakes import GONE, Mistake, m, open_folder, paragraphs

CLIENT = "client --server {server} --name north --folder {folder}/kept --data {folder}/north.txt"
NORTH = {"north.txt": paragraphs()}
SECRET = {"secret": "0123456789abcdef"}
SERVER = "server {job} --listen 127.0.0.1:0"
OPERATOR: dict[str, Mistake] = {
    "an address without a port": m(
        2, "--server 127.0.0.1: write HOST:PORT", CLIENT.replace("{server}", "127.0.0.1"), files=NORTH
    ),
    "a web address": m(
        2, "write HOST:PORT", CLIENT.replace("{server}", "http://127.0.0.1:50051"), files=NORTH
    ),
    "a port beyond all": m(2, "write HOST:PORT", CLIENT.replace("{server}", "localhost:99999"), files=NORTH),
    "no secret": m(6, "refuses this client: its token is wrong", CLIENT, files=NORTH),
    "another secret": m(
        6, "refuses this client: its token is wrong", CLIENT + " --token-file {folder}/secret",
        files={**NORTH, "secret": "fedcba9876543210"},
    ),
    "a secret that is not there": m(
        2, "cannot be read: No such file", CLIENT + " --token-file {folder}/none", files=NORTH
    ),
    "a short secret": m(
        2, "16 to 1024 characters, this one 4", CLIENT + " --token-file {folder}/secret",
        files={**NORTH, "secret": "1234"},
    ),
    "the name of no client": m(
        6, "no client of this job is called so",
        CLIENT.replace("north --f", "nrth --f") + " --token-file {folder}/secret", files=NORTH | SECRET,
    ),
    "data that are not there": m(3, "north.txt: no such file", CLIENT),
    "no data": m(2, "--data FILE, or --job-data", CLIENT.split(" --data")[0]),
    "two kinds of data": m(2, "not both", CLIENT + " --job-data", files=NORTH),
    "evaluation rows without data": m(
        2, "--eval-data goes with --data",
        CLIENT.replace(" --data", " --job-data --eval-data"), files=NORTH,
    ),
    "certificates that are not there": m(
        6, "none/ca.pem | splitft certs add", CLIENT + " --certs {folder}/none", files=NORTH
    ),
    "a certificate that has ended": m(
        6, "client.pem ended on | splitft certs renew", CLIENT + " --certs {certs}/late", files=NORTH
    ),
    "a folder of a client that is at work": m(
        5, "in use by process", CLIENT.replace("{folder}/kept", "{busy}"), files=NORTH
    ),
    "a port in use": m(6, "address already in use | --listen", "server {job} --listen 127.0.0.1:{taken}"),
    "an address of another machine": m(
        6, "cannot listen at 203.0.113.9:0 | --listen", "server {job} --listen 203.0.113.9:0 --insecure"
    ),
    "a server's address without a port": m(2, "write HOST:PORT", "server {job} --listen 127.0.0.1"),
    "a network without TLS": m(2, "no TLS | --certs | --insecure", "server {job} --listen 0.0.0.0:0"),
    "a server's certificates that are not there": m(
        6, "lacks ca.pem, server.pem | splitft certs init", SERVER + " --certs {folder}/none"
    ),
    "a client's certificates at the server": m(
        6, "lacks server.pem, server.key, revoked.pem", SERVER + " --certs {certs}/north"
    ),
    "a server's certificate that has ended": m(
        6, "server.pem ended on | splitft certs renew", SERVER + " --certs {certs}/ended"
    ),
    "a client let into a new run": m(
        2, "give --resume, too", SERVER + " --admit north"
    ),
    "the organiser's folder in the place of the server's": m(
        6, "holds ca.key | give --certs | /server", SERVER + " --certs {certs}"
    ),
    "labels that nobody decided on": m(2, "must state `labels`", SERVER, labels=GONE),
    "a privacy mode that nobody decided on": m(2, "must state `privacy`", SERVER, privacy=GONE),
    "epochs over a network": m(
        2, "num_train_epochs counts rows | set rounds or max_steps", SERVER, num_train_epochs=1
    ),
    "a method without a server": m(2, "method local_only has no server", SERVER, method="local_only"),
    "an aggregator without a job for it": m(2, "set network.aggregator=HOST:PORT", "aggregator {job}"),
    "a client before its authority": m(5, "splitft certs init", "certs add north --folder {folder}/none"),
    "an authority twice": m(5, "holds an authority already", "certs init --folder {certs}"),
    "an authority in a folder that all can enter": m(
        5, "is open to other users | chmod 700", "certs init --folder {folder}", make=open_folder
    ),
    "a host with its port": m(2, "is no host", "certs init server.example.org:50051 --folder {folder}/new"),
    "a renewal of nobody": m(5, "holds no certificate", "certs renew south --folder {certs}"),
    "a client twice": m(5, "north is there already", "certs add north --folder {certs}"),
    "a name with a space": m(2, "cannot be a client's name", "certs add North_Hospital --folder {certs}"),
    "a revocation of nobody": m(5, "has signed no certificate", "certs revoke south --folder {certs}"),
}  # fmt: skip
