"""Does with a generated client what the README does with curl, against a running daemon.

usage: client.py URL IMAGE DOCUMENT, with the generated package `rc_client` in PYTHONPATH

Every answer on the way is also compared with the document's schema for it. Fails by an assertion.
"""

import json
import re
import sys

import httpx
from jsonschema import Draft202012Validator, FormatChecker

from rc_client import Client
from rc_client.api.daemon import get_health, get_history, get_queue, get_status
from rc_client.api.jobs import cancel_job, explain_job, get_job, get_job_log, list_job_events, list_jobs, submit_job
from rc_client.api.machines import list_hosts, quarantine_gpu
from rc_client.api.page import get_open_api
from rc_client.api.runners import list_runners, terminate_runner
from rc_client.models import EndReason, EventKind, JobState, Problem, ProblemType, QuarantineGpu, SubmitJob

URL, IMAGE, DOCUMENT = sys.argv[1:]
SECONDS = 45

with open(DOCUMENT, encoding="utf-8") as file:
    document = json.load(file)
seen = set()


def operation_of(request):
    for template, item in document["paths"].items():
        pattern = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, request.url.raw_path.decode().split("?")[0]):
            return item[request.method.lower()]
    raise AssertionError(f"{request.method} {request.url} is not in the document")


def compare(response):
    """Compares an answer with the document."""
    operation = operation_of(response.request)
    described = operation["responses"].get(str(response.status_code))
    assert described, f"{operation['operationId']} is not to answer {response.status_code}"
    kind = response.headers["content-type"]
    schema = described["content"][kind]["schema"]
    response.read()
    if kind.endswith("json"):
        whole = {**schema, "components": document["components"]}
        faults = list(Draft202012Validator(whole, format_checker=FormatChecker()).iter_errors(response.json()))
        assert not faults, f"{operation['operationId']} {response.status_code}: {faults}"
    seen.add((operation["operationId"], response.status_code))


def expect(actual, wanted, about=""):
    assert actual == wanted, f"{actual!r} is not {wanted!r}; {about}"


def is_problem(answer, kind, status):
    assert isinstance(answer, Problem), answer
    expect((answer.type_, answer.status), (kind, status), answer)


def a_job_of_the_readme(client):
    body = SubmitJob(image=IMAGE, command=["sh", "-c", "echo hello; exit 3"], project="team/app")
    job = submit_job.sync(client=client, body=body, idempotency_key="readme-1")
    expect(submit_job.sync(client=client, body=body, idempotency_key="readme-1").id, job.id, "the same key makes the same job")
    # Followed to its end, so that nothing has to be waited for.
    expect(get_job_log.sync(job.id, client=client, follow=True), "hello\n")
    job = get_job.sync(job.id, client=client)
    expect((job.state, job.reason, job.exit_code), (JobState.FAILED, EndReason.EXIT_CODE, 3), job)
    expect(job.request.command, ["sh", "-c", "echo hello; exit 3"])
    kinds = [event.kind for event in list_job_events.sync(job.id, client=client).events]
    assert kinds[0] == EventKind.SUBMITTED and EventKind.ENDED in kinds, kinds
    is_problem(cancel_job.sync(job.id, client=client), ProblemType.JOB_ENDED, 409)
    return job


def a_job_that_is_cancelled(client):
    job = submit_job.sync(client=client, body=SubmitJob(image=IMAGE, command=["sleep", "600"], timeout="1h"))
    expect(explain_job.sync(job.id, client=client).job_id, job.id)
    cancelled = cancel_job.sync(job.id, client=client)
    assert cancelled.state == JobState.CANCELED or cancelled.cancel_requested_at is not None, cancelled
    get_job_log.sync(job.id, client=client, follow=True)
    job = get_job.sync(job.id, client=client)
    expect((job.state, job.reason), (JobState.CANCELED, EndReason.CANCELED_BY_USER), job)


def what_there_is(client, ended):
    status = get_status.sync(client=client)
    expect((status.jobs.failed, status.jobs.canceled, status.queue.depth), (1, 1, 0), status)
    expect(get_health.sync(client=client).checks["engine"].status.value, "ok")
    expect(list_hosts.sync(client=client).hosts[0].id, status.hosts[0].id)
    page = list_jobs.sync(client=client, state=[JobState.FAILED], project="team/app", limit=1)
    expect([job.id for job in page.jobs], [ended.id])
    first = list_jobs.sync(client=client, limit=1)
    expect(list_jobs.sync(client=client, limit=1, cursor=first.next_cursor).jobs[0].id, ended.id, "the next page")
    list_runners.sync(client=client)
    get_queue.sync(client=client)
    get_history.sync(client=client)
    expect(get_open_api.sync(client=client).to_dict(), document, "what is served is what is checked in")


def what_is_refused(client):
    answer = submit_job.sync(client=client, body=SubmitJob(image=IMAGE, command=["true"], priority=1001))
    is_problem(answer, ProblemType.INVALID_FIELD, 422)
    expect([fault.field for fault in answer.errors], ["priority"])
    answer = submit_job.sync(client=client, body=SubmitJob(image=IMAGE, command=["true"], cpus=4096))
    is_problem(answer, ProblemType.UNSATISFIABLE, 422)
    is_problem(get_job.sync("0", client=client), ProblemType.NOT_FOUND, 404)
    is_problem(terminate_runner.sync("0", client=client), ProblemType.NOT_FOUND, 404)
    is_problem(quarantine_gpu.sync("none", client=client, body=QuarantineGpu()), ProblemType.NOT_FOUND, 404)
    is_problem(list_jobs.sync(client=client, limit=501), ProblemType.INVALID_PARAMETER, 400)


def main():
    client = Client(base_url=URL, timeout=httpx.Timeout(SECONDS), httpx_args={"event_hooks": {"response": [compare]}, "trust_env": False})
    with client:
        ended = a_job_of_the_readme(client)
        a_job_that_is_cancelled(client)
        what_there_is(client, ended)
        what_is_refused(client)
    print(f"{len(seen)} answers compared: {sorted(seen)}")


main()
