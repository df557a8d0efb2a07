use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A reader, and the requests that a GitLab with these answers heard, one connection each.
async fn against<T>(answers: Vec<String>, call: impl AsyncFnOnce(HttpListing) -> T) -> (T, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let reader = HttpListing::new(&url, "r_test", SecretString::from("glpat-read")).expect("a client");
    let serve = async {
        let mut heard = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut asked = vec![0; 16 << 10];
            let mut length = 0;
            while !asked[..length].windows(4).any(|end| end == b"\r\n\r\n") {
                length += stream.read(&mut asked[length..]).await.expect("readable");
            }
            asked.truncate(length);
            drop(stream.write_all(answer.as_bytes()).await);
            drop(stream.shutdown().await);
            heard.push(String::from_utf8(asked).expect("text"));
        }
        heard
    };
    tokio::join!(call(reader), serve)
}

fn ok(body: &str, headers: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn refused(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: 0\r\n\r\n")
}

#[tokio::test]
async fn a_projects_queue_is_read_page_by_page_with_each_job_once() {
    let first = r#"[{"id":9007199254740995,"status":"pending","tag_list":["docker"],"created_at":"2026-11-24T00:00:00.123Z","queued_duration":12.5,"runner":null,"x":[1]},
                    {"id":2,"status":"pending","tag_list":null,"runner":{"id":7}}]"#;
    // A job moved to the second page while we read the first.
    let second = r#"[{"id":2,"status":"pending"},{"id":1,"status":"pending","tag_list":[],"user":null}]"#;
    let answers = vec![ok(first, "X-Next-Page: 2\r\n"), ok(second, "X-Next-Page: \r\n")];
    let (listed, asked) = against(answers, async |reader| reader.pending("team/sub/app").await).await;
    let listed = listed.expect("a list");
    assert_eq!((listed.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), listed.more), (vec![9_007_199_254_740_995, 2, 1], More::No));
    assert_eq!((listed.jobs[0].tag_list.clone(), listed.jobs[0].queued_duration), (vec!["docker".to_owned()], Some(12.5)));
    assert_eq!(listed.jobs[1].runner.as_ref().map(|runner| runner.id), Some(7));
    assert!(asked[0].starts_with("GET /api/v4/projects/team%2Fsub%2Fapp/jobs?scope[]=pending&per_page=100&page=1 HTTP"), "{}", asked[0]);
    assert!(asked[1].contains("&page=2 "), "{}", asked[1]);
    assert!(asked.iter().all(|asked| asked.to_lowercase().contains("private-token: glpat-read\r\n")), "{asked:?}");
}

#[tokio::test]
async fn a_list_without_end_is_not_followed_for_ever() {
    let page = |n: usize| ok(&format!("[{{\"id\":{n}}}]"), &format!("X-Next-Page: {}\r\n", n + 2));
    let (listed, _) = against((0..MAX_PAGES).map(page).collect(), async |reader| reader.pending("42").await).await;
    let listed = listed.expect("a list");
    assert_eq!((listed.jobs.len(), listed.more), (MAX_PAGES, More::Yes));
    let (listed, _) = against(vec![ok("[]", "X-Next-Page: 1\r\n")], async |reader| reader.pending("42").await).await;
    assert_eq!(listed.expect("a list").more, More::No, "a next page that is none");
}

#[tokio::test]
async fn what_another_machine_runs_through_the_same_runner_is_left_out() {
    let jobs = r#"[{"id":1,"status":"running","runner_manager":{"system_id":"r_test"},"pipeline":{"project_id":5},"project":{"id":6}},
                   {"id":2,"status":"running","runner_manager":{"system_id":"r_other"}},{"id":3,"status":"running","pipeline":{"project_id":5}}]"#;
    let answers = vec![ok(r#"{"id":77,"token":"glrt-x"}"#, ""), ok(jobs, "")];
    let (listed, asked) = against(answers, async |reader| reader.running(&SecretString::from("glrt-x")).await).await;
    let found: Vec<_> = listed.expect("a list").jobs.iter().map(|job| (job.id, job.project_id())).collect();
    assert_eq!(found, [(1, Some(6)), (3, Some(5))]);
    assert!(asked[0].starts_with("POST /api/v4/runners/verify HTTP"), "{}", asked[0]);
    assert!(asked[1].starts_with("GET /api/v4/runners/77/jobs?status=running&system_id=r_test&"), "{}", asked[1]);
    let other = ok(r#"{"id":2,"status":"running","runner_manager":{"system_id":"r_other"}}"#, "");
    assert_eq!(against(vec![other], async |reader| reader.job(5, 2).await).await.0.expect("an answer"), None);
}

#[tokio::test]
async fn refusals_say_what_is_wrong_without_the_token() {
    let cases = [
        (refused("401 Unauthorized", ""), "refused the token"),
        (refused("403 Forbidden", ""), "refused the token"),
        (refused("404 Not Found", ""), "none that the token may see"),
        (refused("429 Too Many Requests", "Retry-After: 7\r\n"), "again in 7 s"),
        (refused("502 Bad Gateway", ""), "status 502"),
        (refused("200 OK", "Content-Type: text/html\r\n"), "not declared as JSON"),
        (ok("{\"message\":\"glpat-read\"}", ""), "not usable at line 1"),
        (ok("[{\"id\":\"one\"}]", ""), "not usable at line 1"),
    ];
    for (answer, expected) in cases {
        let (listed, _) = against(vec![answer], async |reader| reader.pending("42").await).await;
        let error = crate::domain::chain(&listed.expect_err(expected));
        assert!(error.contains(expected) && !error.contains("glpat"), "{error}");
    }
    let (job, _) = against(vec![refused("404 Not Found", "")], async |reader| reader.job(1, 2).await).await;
    assert_eq!(job.expect("an answer"), None);
    let shown = format!("{:?}", HttpListing::new("http://g", "r", SecretString::from("glpat-read")).expect("a client"));
    assert!(!shown.contains("glpat"), "{shown}");
}
