//! The keys.

use super::{Part, key, secret};

/// All of them.
pub const REFERENCE: &[Part] = &[
    Part {
        name: "general",
        keys: &[
            key("service_name", "`runner-coordinator`", "name of this service in logs, labels, metrics and `/status`"),
            key("data_dir", "`/var/lib/runner-coordinator`, or `./data` when that is not writable", "database, logs of jobs, own keys"),
            key("http.listen", "`127.0.0.1:8080`", "API, webhook and page. An address that is not loopback needs `[[http.tokens]]`"),
            key(
                "http.socket",
                "none",
                "path of a Unix socket that serves the same (mode 0660). Who may open it is `operator` without a token, see [the Unix socket](#the-unix-socket-and-socket-activation)",
            ),
            key(
                "http.tls.certificate_file",
                "none",
                "the server's certificate, then those that lead to its authority, in PEM: `http.listen` speaks TLS 1.2 and 1.3 and nothing else, see [TLS](#tls). Needs `http.tls.key_file`",
            ),
            key("http.tls.key_file", "none", "the certificate's private key in PEM, not encrypted; the file must be closed to others"),
            key(
                "http.tls.client_ca_file",
                "none",
                "authorities in PEM: every client at `http.listen` needs a certificate from one of them, beside its token",
            ),
            secret(
                "store.url",
                "`sqlite:coordinator.db`",
                "the queue: a file, whose path counts from `data_dir` if it is relative, or `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, a database that daemons share, see [fleet](fleet.md)",
            ),
            key("docker.host", "`DOCKER_HOST`, else `unix:///var/run/docker.sock`", "the engine: `unix://`, `tcp://` or `http://`"),
            key(
                "docker.data_dir",
                "the same path",
                "where the engine sees `data_dir`, when the coordinator is in a container: jobs of the API get two files of it. `check` and `/health` tell when it does not",
            ),
            key("docker.dns", "the machine's own", "name servers that the engine gives to containers, when they are others than the machine's"),
            key("host.name", "the machine's host name", "id of this machine"),
            key("host.cpus", "all", "most processor time that jobs use together, such as `14.5`"),
            key("host.memory", "all", "most memory that jobs use together"),
            key(
                "broker.listen",
                "`gateway:8093`",
                "where runners reach the coordinator: `gateway:PORT` is this machine's address in the runners' network; or `ADDRESS:PORT`",
            ),
            key("broker.advertise", "the address listened on", "base URL that runners use, when it differs"),
        ],
    },
    Part {
        name: "log",
        keys: &[
            key(
                "log.level",
                "`info`",
                "which lines are logged: `error`, `warn`, `info`, `debug`, `trace`, or a list by module such as `info,runner_coordinator::jobs=debug`. `--log` and `RUNNER_COORDINATOR_LOG` win over it, also over a reload",
            ),
            key(
                "log.format",
                "`text`",
                "`text` or `json` on standard error, one line per event, or `journald`. `--log-format` and `RUNNER_COORDINATOR_LOG_FORMAT` win over it. Other commands than `serve` log as text unless told otherwise on the command line",
            ),
        ],
    },
    Part {
        name: "gpu",
        keys: &[
            key("gpu.probe_interval", "`15s`", "how often the machine's devices are looked at"),
            key("gpu.hold_after", "`10m`", "a job that waited so long for GPUs has those that become free held back for it, until it has all"),
            key(
                "gpu.recheck_after",
                "`30s`",
                "how soon a GPU in [quarantine](gpu.md#health-between-jobs) is tested again; the wait doubles each time, up to 30 minutes (or this, if longer)",
            ),
            key(
                "gpu.shared",
                "`[]`",
                "GPUs of which several jobs may have shares: ids as `check` shows them, or patterns of models' names such as `\"*A100*\"`; see [shares](gpu.md#shares)",
            ),
            key(
                "gpu.toolkit",
                "`nvidia-ctk`",
                "the program of NVIDIA's container toolkit that tells its version (`--version`), a path or a name in `PATH`",
            ),
            key(
                "gpu.old_toolkit",
                "`refuse`",
                "when the toolkit is older than 1.17.8: `refuse` gives no GPU of NVIDIA's to jobs until it is updated, `allow` only tells",
            ),
            key("gpu.integrated", "`ignore`", "graphics that are part of the processor: `ignore` shows them, `use` gives them to jobs"),
            key("gpu.nvml", "`libnvidia-ml.so.1`", "NVIDIA's management library: a whole path, or a name for the loader to find"),
            key("gpu.sysfs", "`/sys`", "where the kernel's `/sys` is"),
            key("gpu.dev", "`/dev`", "where `/dev` is"),
            key("gpu.proc", "`/proc`", "where the kernel's `/proc` is"),
        ],
    },
    Part {
        name: "http.tokens[]",
        keys: &[
            key("http.tokens[].name", "needed", "who holds it, for logs; unique"),
            key(
                "http.tokens[].role",
                "needed",
                "`viewer` looks; `operator` also submits, cancels, spawns, terminates and drains; `submitter` submits jobs of its projects and looks at those, and nothing else",
            ),
            key("http.tokens[].projects", "none", "of a `submitter`, and needed there: its projects, as jobs name them, such as `[\"team/app\"]`"),
            key("http.tokens[].sha256", "needed", "SHA-256 of the token in 64 hexadecimal digits"),
        ],
    },
    Part {
        name: "docker.registries[]",
        keys: &[
            key("docker.registries[].server", "needed", "host and perhaps port, as image references name it; `docker.io` for Docker's own; unique"),
            key("docker.registries[].username", "needed", ""),
            secret("docker.registries[].password", "needed", ""),
        ],
    },
    Part {
        name: "gitlab",
        keys: &[
            key("gitlab.url", "needed", "base URL"),
            secret(
                "gitlab.webhook.signing_token",
                "none",
                "what signs webhooks (GitLab 19.0 and later): `whsec_` and the base64 of 32 bytes; a list allows several, so that the token can be changed without losing an event. A signed webhook must be signed with one of these",
            ),
            secret(
                "gitlab.webhook.secret_token",
                "none",
                "what `X-Gitlab-Token` of a webhook without a signature must be; a list allows several. With signing tokens only, a webhook without a signature is refused. Without any token, every webhook is refused, and jobs are found by polling alone",
            ),
            key("gitlab.poll_interval", "`15s`", "how often GitLab is asked for work without an event"),
            key(
                "gitlab.repair_interval",
                "`10m`",
                "how often, besides every start, what is here is [compared with what GitLab says](gitlab.md#when-the-two-sides-differ)",
            ),
            secret(
                "gitlab.read_token",
                "none",
                "access token with the scope `read_api`, to [see GitLab's queue](gitlab.md#seeing-gitlabs-queue); everything else works without",
            ),
            key(
                "gitlab.projects",
                "none",
                "the projects whose queue is looked at, at most 100, each a full path or an id: `[\"team/app\", 42]`; needs `gitlab.read_token`",
            ),
        ],
    },
    Part {
        name: "classes[]",
        keys: &[
            key("classes[].name", "needed", "unique; letters, digits, `.`, `_`, `-`, at most 63"),
            key(
                "classes[].image",
                "none",
                "image of jobs that name none; for a class with `gitlab_token`, needed: the image that holds gitlab-runner",
            ),
            key("classes[].tags", "none", "for people and `/status`; GitLab matches by the tags of its own runner"),
            key("classes[].arch", "any", "`amd64`, `arm64`, `riscv64`"),
            key(
                "classes[].emulation",
                "`deny`",
                "whether jobs that do not say so themselves may run where their architecture is only emulated: `deny` or `allow`",
            ),
            key("classes[].gpus.count", "needed with `gpus`", "GPUs of each runner, 1 to 64, for it alone"),
            key("classes[].gpus.vendor", "any", "`nvidia`, `amd`, `intel`"),
            key("classes[].gpus.min_memory", "none", "least memory of each GPU"),
            key("classes[].gpus.model", "any", "pattern for the model's name, `*` for any text, capital or small: `\"*A100*\"`"),
            key("classes[].gpus.compute_capability", "any", "least compute capability, `\"8.0\"`; needs `gpus.vendor = \"nvidia\"`"),
            key(
                "classes[].gpus.memory",
                "none",
                "a share of one GPU's memory in place of GPUs of its own, on one that `gpu.shared` opens; not with `gpus.min_memory`, `gpus.mig_profile` or a `gpus.count` above 1",
            ),
            key("classes[].gpus.mig_profile", "none", "MIG profile such as `1g.10gb`; needs `gpus.vendor = \"nvidia\"`"),
            key("classes[].cpus", "`1`", "processor time of each runner"),
            key("classes[].memory", "`2GiB`", "memory of each runner, at least `6MiB`"),
            key("classes[].pids", "`512`", "most processes and threads"),
            key("classes[].timeout", "`1h`", "longest run time of a job that names none, at most `limits.max_timeout`"),
            key(
                "classes[].network",
                "`isolated`",
                "what containers reach beside the broker, never another job: `none`: nothing; `isolated`: the public internet, and GitLab in a class with a `gitlab_token`; `allowlist`: GitLab and `network_allow`; `open`: all, and the machine itself",
            ),
            key(
                "classes[].network_allow",
                "none",
                "what `isolated` and `allowlist` open beside: names, addresses and networks, each with a port or without, such as `git.example.com:443` or `10.0.0.0/8`",
            ),
            key(
                "classes[].require_digest",
                "`false`",
                "whether every image has to be named by its digest (`name@sha256:…`), the class's own and those that jobs name",
            ),
            key("classes[].runtime", "`runc`", "the engine's runtime"),
            key("classes[].user", "`65532:65532`", "numeric user and group, neither of them root"),
            key("classes[].warm", "`0`", "runners kept ready for GitLab's jobs; needs `gitlab_token`"),
            key("classes[].max_runners", "what fits", "most runners at once"),
            key("classes[].priority", "`0`", "of jobs that name none; higher goes first"),
            secret("classes[].gitlab_token", "none", "authentication token of a runner of GitLab; needs `image` and `gitlab.url`, and a network"),
            key("classes[].pull", "`if-missing`", "when the image is pulled: `if-missing`, `always`, `never`"),
            key("classes[].tmp_size", "`512MiB`", "size of `/tmp`, which counts as memory"),
            key(
                "classes[].job_image",
                "`deny`",
                "what becomes of a job of GitLab that names an `image:`: `deny` fails it with a message, `ignore` runs it in the class's image, `allow` runs it in its own",
            ),
            key(
                "classes[].job_images",
                "any",
                "patterns of images that jobs may name, with `*` for anything; only with `job_image = \"allow\"`. They are compared with the full name too (`docker.io/library/alpine:3`)",
            ),
            key(
                "classes[].runner_binary",
                "",
                "GitLab Runner on the engine's machine, an absolute path; needed with `job_image = \"allow\"`. Such containers see this one file, read-only, as `/usr/local/bin/gitlab-runner`",
            ),
            key("classes[].shell", "`bash`", "the shell for which GitLab Runner writes scripts: `bash` or `sh`; the image must have it"),
        ],
    },
    Part {
        name: "projects[]",
        keys: &[
            key("projects[].name", "needed", "as jobs name it in `project`; for jobs of GitLab the project's path; unique"),
            key("projects[].weight", "`1`", "jobs that start for one of a project of weight 1, 1 to 1000"),
            key("projects[].max_running", "no limit", "most of its jobs that start or run at once, 1 to 100000"),
            key("projects[].max_gpus", "no limit", "most GPUs that its jobs have at once, 1 to 100000; a share of one counts as one"),
        ],
    },
    Part {
        name: "traces",
        keys: &[
            key(
                "traces.endpoint",
                "needed",
                "base URL of an OTLP receiver that speaks HTTP, such as `http://127.0.0.1:4318`; `/v1/traces` is put behind it",
            ),
            key("traces.sample", "`1`", "which part of the jobs is sent, from 0 to 1; chosen by the job's id"),
            key("traces.headers[].name", "needed", "a header of every request, such as `authorization`; at most 16"),
            secret("traces.headers[].value", "needed", "its value; a secret"),
        ],
    },
    Part {
        name: "limits",
        keys: &[
            key("limits.body", "`1MiB`", "largest body of a request to the API"),
            key("limits.webhook_body", "`25MiB`", "largest body of a webhook; GitLab's own limit"),
            key("limits.token_requests", "`200`", "most requests a second with one token; those of five seconds may come at once"),
            key("limits.address_refusals", "`10`", "the same for requests of one address that need a token and show none which is known"),
            key("limits.queue_per_project", "`10000`", "most jobs that wait for one project"),
            key("limits.queue", "`100000`", "most jobs that wait in all; those that GitLab gave away already are taken all the same"),
            key("limits.log_size", "`64MiB`", "most that is kept of one attempt's log"),
            key("limits.infrastructure_retries", "`2`", "how often a job is tried again after failing through no doing of its own"),
            key("limits.retry_backoff", "`5s`", "wait before the first retry, doubled for each further one"),
            key("limits.retry_backoff_max", "`5m`", "longest wait before a retry"),
            key("limits.stop_grace", "`10s`", "time between SIGTERM and SIGKILL, whole seconds"),
            key("limits.start_timeout", "`120s`", "longest time for a container to start, pulling not counted"),
            key("limits.stuck_after", "`2m`", "how much longer than `stop_grace` a container may take to go before it is told to be stuck"),
            key("limits.runner_contact_timeout", "`5m`", "a runner of GitLab that is silent for longer is lost"),
            key("limits.delivery_memory", "`7days`", "how long webhook deliveries are remembered against doubles"),
            key("limits.max_timeout", "`24h`", "longest timeout of a class or a job"),
            key("limits.env_vars", "`256`", "most environment variables of one job"),
            key("limits.command_bytes", "`128KiB`", "most bytes of a job's command, and most of its environment"),
        ],
    },
    Part {
        name: "fleet",
        keys: &[
            key("fleet.host_lost_after", "`2m`", "how long a machine may be silent before the others end its jobs as `host_lost`; at least 30s"),
            key(
                "fleet.url",
                "none",
                "where this daemon's API is reached from elsewhere, such as `https://box1.example.com:8080`: whoever asks another daemon for what only this one has is sent there",
            ),
        ],
    },
    Part {
        name: "retention",
        keys: &[
            key("retention.jobs", "`30days`", "how long a job is kept after its end, with attempts, history and idempotency key"),
            key("retention.max_jobs", "`100000`", "most ended jobs that are kept; beyond that the oldest go early, but none in its first 10 minutes"),
            key("retention.logs", "`30days`", "how long a job's logs are kept after its end; never longer than the job"),
            key("retention.usage", "`365days`", "how long the sums of a project are kept that had no GPU since"),
        ],
    },
    Part {
        name: "disk",
        keys: &[
            key(
                "disk.low",
                "`15% or 50GiB`",
                "when less is free, [images make room](operations.md#disks): a part, an amount, or whichever of both is less",
            ),
            key("disk.full", "`5% or 5GiB`", "when less is free, [no new work begins](operations.md#disks)"),
        ],
    },
    Part {
        name: "images",
        keys: &[
            key("images.max_age", "none", "an image that this daemon pulled and no job used for so long is removed, also while there is room"),
            key("images.pinned", "none", "patterns of images that are never removed, such as `[\"registry.example.com/ci/*\"]`"),
        ],
    },
];
