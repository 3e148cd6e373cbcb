"""Every problem that the api answers with: its status, its title and what to do about it.

The name is stable: clients tell problems apart by `type`, which is `/problems/NAME`, and that
address is a page with the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class ProblemKind:
    """One kind of problem; `remedy` speaks to whoever got the answer."""

    name: str
    status: int
    title: str
    remedy: str


_KINDS = (
    ProblemKind(
        "invalid_json", 400, "The body is not JSON that can be trusted",
        "Send UTF-8 JSON with Content-Type: application/json. A field given twice, NaN, infinite "
        "numbers, whole numbers beyond 64 bits and NUL characters are refused, because readers "
        "disagree about them. The detail names the place.",
    ),
    ProblemKind(
        "invalid_request", 400, "The request cannot be read",
        "The address, a header or the body is malformed. Check for stray control characters "
        "and for a body that ended early.",
    ),
    ProblemKind(
        "key_unknown", 401, "No valid key",
        "Send Authorization: Bearer KEY. The key is missing, unknown, expired or revoked: ask an "
        "administrator for a new one (quarterdeck keys create), or run quarterdeck login.",
    ),
    ProblemKind(
        "access_denied", 403, "The key may not do this",
        "A key has an access (viewer reads, operator changes, admin manages keys and clusters) "
        "and often one project. Use a key whose access and project reach this resource. Keys of "
        "agents and runs reach only their own endpoints.",
    ),
    ProblemKind(
        "not_found", 404, "There is no such thing",
        "Check the id or name, and the project: names are looked up in ?project=, which is the "
        "key's own project, or default.",
    ),
    ProblemKind(
        "unknown_route", 404, "There is no such address",
        "See /openapi.json for every operation. Addresses start with /api/v1 and have no slash "
        "at the end.",
    ),
    ProblemKind(
        "method_not_allowed", 405, "This address does not answer that method",
        "The header Allow names the methods that it answers.",
    ),
    ProblemKind(
        "body_too_slow", 408, "The body did not arrive in time",
        "Send the whole body within the deadline; repeat the request on a better connection.",
    ),
    ProblemKind(
        "headers_too_slow", 408, "The request's headers did not arrive in time",
        "Send the whole head of the request at once; the connection is closed.",
    ),
    ProblemKind(
        "already_claimed", 409, "Another agent has claimed this run",
        "Nothing is to be done: a run is claimed once. An agent that gets this must not start "
        "the run.",
    ),
    ProblemKind(
        "stale_epoch", 409, "A newer epoch owns this",
        "The run was given up or has ended, and its owner has a newer one. Whoever gets this "
        "must stop working and publish nothing.",
    ),
    ProblemKind(
        "superseded_agent", 409, "A newer agent has taken this cluster over",
        "Only one agent serves a cluster. Stop this one, or start it again to take over.",
    ),
    ProblemKind(
        "job_live", 409, "A live job of that name has another spec",
        "Jobs are immutable. Wait for its end, cancel it, give the new one another name, or "
        "apply with replace (--replace) to cancel it and start the new one.",
    ),
    ProblemKind(
        "job_ended", 409, "The job has ended",
        "An ended job does not change any more. Use retry to run the same spec again as a new "
        "job.",
    ),
    ProblemKind(
        "job_not_ended", 409, "The job has not ended",
        "Only an ended job can be retried. Cancel it first, or wait for its end.",
    ),
    ProblemKind(
        "node_alive", 409, "The machine still beats",
        "Only a machine that is gone can be confirmed dead: what runs on a living one would go "
        "on while its work is started again. Cordon it instead, or switch it off and wait until "
        "it is shown as unknown. If you know better, repeat with force (--force).",
    ),
    ProblemKind(
        "node_gone", 409, "There is no living machine to bring it to",
        "quarterdeck nodes lists the machines that live. Name others, or wait until the agents of "
        "the cluster are back.",
    ),
    ProblemKind(
        "warmings_full", 409, "Too many copies of models are under way",
        "Weights that are wanted on nodes ahead are bounded. Wait until some are there, or name "
        "fewer nodes.",
    ),
    ProblemKind(
        "not_running", 409, "There is no rank to reach",
        "Programs, terminals and ports are reached while a job runs or a replica lives. Wait for "
        "phase running (quarterdeck wait job/NAME --until running).",
    ),
    ProblemKind(
        "name_taken", 409, "That name is in use",
        "Choose another name, or remove what has it.",
    ),
    ProblemKind(
        "service_stopped", 409, "The service is being removed",
        "A service that is being removed does not change any more. Apply it again to make a new "
        "one.",
    ),
    ProblemKind(
        "rollout_state", 409, "The rollout is not in a state for this",
        "The detail names its state: only a rollout that is under way can pause, only one that is "
        "paused or was rolled back can resume, and undo needs an earlier revision. "
        "`quarterdeck rollout service/NAME` shows it.",
    ),
    ProblemKind(
        "secret_missing", 409, "A secret that the run needs is gone",
        "The run was not handed out and its job waits: set the secret again (quarterdeck secrets "
        "set NAME), and the job is placed anew.",
    ),
    ProblemKind(
        "stale_etag", 412, "Somebody changed it since you read it",
        "Read the resource again, make your change to what you get, and send its new ETag in "
        "If-Match.",
    ),
    ProblemKind(
        "body_too_large", 413, "The body is too large",
        "Send less at once: the detail names the limit in bytes. Data belongs into the artifact "
        "store and is referred to by a URI.",
    ),
    ProblemKind(
        "no_weights", 422, "The model version has nothing that could be brought ahead",
        "Nodes keep copies of versions that list their files, with weights among them, under the "
        "files' digest. Publish the model again with its files.",
    ),
    ProblemKind(
        "digest_mismatch", 422, "The content does not have the digest that it was sent under",
        "The address names the SHA-256 of the bytes. Files may have changed while they were sent, "
        "or a proxy has changed the body: send the content again. Nothing of it was kept.",
    ),
    ProblemKind(
        "invalid_document", 422, "A document is wrong",
        "Each entry of errors names a field by its path, what is wrong and what is accepted. "
        "Nothing was written.",
    ),
    ProblemKind(
        "invalid_parameter", 422, "A parameter is wrong",
        "Each entry of errors names the parameter, what is wrong and what is accepted.",
    ),
    ProblemKind(
        "does_not_fit", 422, "The job cannot fit",
        "The planner found no room in the memory of the accelerator. The detail names the "
        "shortage and the remedies. Apply with force (--force) to submit it all the same.",
    ),
    ProblemKind(
        "idempotency_key_reused", 422, "The Idempotency-Key belongs to another request",
        "A key stands for one request: repeat that request unchanged, or use a new key.",
    ),
    ProblemKind(
        "out_of_range", 422, "A value is out of the range that is stored",
        "Whole numbers are stored with 32 or 64 bits. Send a smaller number.",
    ),
    ProblemKind(
        "etag_required", 428, "If-Match is required",
        "Read the resource, and send the ETag of what you read in If-Match, so that nobody's "
        "change is lost.",
    ),
    ProblemKind(
        "headers_too_large", 431, "The request's headers are too large",
        "Send fewer or shorter headers and a shorter address; the detail names the limit.",
    ),
    ProblemKind(
        "internal_error", 500, "The control plane failed",
        "This is a fault of ours. The answer's X-Request-Id is in the api's log beside the cause.",
    ),
    ProblemKind(
        "wrong_master_key", 500, "A stored value does not open with this master key",
        "Administrators: start every api with the master key that sealed the value (the file "
        "keys/master of the home). If that key is lost, set the secrets again; an agent's next "
        "beat renews its cluster's token.",
    ),
    ProblemKind(
        "storage_full", 507, "The artifact store is full",
        "Delete what is not needed from the artifact store, or give it more room. Administrators: "
        "QUARTERDECK_ARTIFACTS names where it lies.",
    ),
    ProblemKind(
        "database_unavailable", 503, "The database does not answer",
        "Repeat the request later. Administrators: check the database that /readyz names.",
    ),
    ProblemKind(
        "artifacts_unavailable", 503, "The artifact store does not answer",
        "Repeat the request later. Administrators: check that this api reaches the place that "
        "QUARTERDECK_ARTIFACTS names, with the credentials in QUARTERDECK_ARTIFACTS_OPTIONS.",
    ),
    ProblemKind(
        "too_many_streams", 503, "Too many streams are open",
        "Close a stream, or repeat later: the number of streams of one api process is bounded.",
    ),
    ProblemKind(
        "request_too_slow", 504, "The answer took too long",
        "Whether the request took effect is unknown. Repeat it; creations with the same "
        "Idempotency-Key are never done twice.",
    ),
)  # fmt: skip

CATALOGUE: Mapping[str, ProblemKind] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""By name."""
