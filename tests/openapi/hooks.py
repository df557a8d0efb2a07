"""What no description can say, put right in requests that fit it: so the daemon has to accept every one of them.

Schemathesis holds the daemon to that with its check `positive_data_acceptance`. Requests that do not fit are sent as they were made.
"""

import itertools

import schemathesis

# A page that begins behind the first of all ids.
CURSOR = "MTow"
numbers = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if "cursor" in (case.query or {}):
        case.query["cursor"] = CURSOR
    if case.operation.label == "POST /webhook/job":
        # The secret stands in the configuration; beside it a signature would have to be right too.
        (case.headers or {}).pop("webhook-signature", None)
    if "Idempotency-Key" in (case.headers or {}):
        # Used again, it has to come with the same body.
        case.headers["Idempotency-Key"] = f"{case.headers['Idempotency-Key'] or ''}{next(numbers)}"[-255:]
    if isinstance(case.body, dict):
        body = {name: value for name, value in case.body.items() if value is not None}
        if "class" in body:
            body["class"] = "default" if case.operation.label == "POST /jobs" else "gitlab"
        if case.operation.label == "POST /jobs":
            mend_job(body)
        case.body = body


def mend_job(body):
    """Bounds that the configuration sets or that are of amounts; what no machine of this daemon can run may wait."""
    body["if_unsatisfiable"] = "wait"
    body["command"] = [body["command"][0] or "true", *body["command"][1:]]
    body.setdefault("image", "debian:bookworm")
    for name, value in (("timeout", "1h 30m"), ("memory", "1.5GiB")):
        if name in body:
            body[name] = value
    if "cpus" in body:
        body["cpus"] = round(body["cpus"], 3)
    if "gpus" in body:
        body["gpus"] = mended_gpus({name: value for name, value in body["gpus"].items() if value is not None})


def mended_gpus(gpus):
    """GPUs of its own or a share of one; some fields are for NVIDIA's alone."""
    own = ["count", "min_memory", "mig_profile"]
    if "memory" in gpus:
        gpus = {name: value for name, value in gpus.items() if name not in own} | {"exclusive": False, "memory": "8GiB"}
    else:
        gpus = {"count": 1} | gpus | {"exclusive": True}
    if "min_memory" in gpus:
        gpus["min_memory"] = "0.5TiB"
    if gpus.get("vendor") != "nvidia":
        gpus = {name: value for name, value in gpus.items() if name not in ("mig_profile", "compute_capability")}
    return gpus
