//! Machines, jobs, who waits for what.

use proptest::prelude::*;

use super::*;
use crate::domain::{Arch, CpuMillis, EndReason, Gpu, GpuHealth, GpuRequest, GpuVendor, Limit, MemoryBytes, Reading, Start};
use crate::platform::devices::fixture::card;

const GIB: u64 = 1 << 30;

fn minute(minute: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 / 60 * 60 + minute * 60).expect("a time")
}

/// `box1 4cpu 8gib n0/24 a0/16`: a machine and its GPUs, whose first letter is their vendor's; one with a `!` is unhealthy.
fn machine(text: &str) -> HostFacts {
    let mut words = text.split_whitespace();
    let id = HostId::from_trusted(words.next().expect("a name"));
    let mut facts = HostFacts {
        id,
        arch: Some(Arch::Amd64),
        cpus: CpuMillis(0),
        memory: MemoryBytes(0),
        emulated: Vec::new(),
        gpus: Vec::new(),
        notes: Vec::new(),
        runtimes: vec!["runc".into()],
    };
    for word in words {
        if let Some((id, gib)) = word.split_once('/') {
            let health = if gib.ends_with('!') { GpuHealth::Unhealthy("Xid 79".into()) } else { GpuHealth::Healthy };
            let memory = Reading::Known(MemoryBytes(number(gib.trim_end_matches('!')) * GIB));
            facts.gpus.push(Gpu { vendor: vendor(id), memory, health, ..card(id) });
        } else if let Some(cpus) = word.strip_suffix("cpu") {
            facts.cpus = CpuMillis(number(cpus) * 1000);
        } else {
            facts.memory = MemoryBytes(number(word.strip_suffix("gib").expect("gib")) * GIB);
        }
    }
    facts
}

/// `a 3cpu 1gib n0 till 10`: a runner's job and what it holds until which minute; `a class gpu` is of that class.
fn tenant(text: &str) -> Tenant {
    let words: Vec<&str> = text.split_whitespace().collect();
    let after = |word: &str| words.iter().position(|found| *found == word).map(|at| words[at + 1]);
    let amount = |unit: &str| words.iter().find_map(|word| word.strip_suffix(unit)).map_or(0, number);
    let devices = words[1..].iter().filter(|word| word.len() == 2 && word.starts_with(['n', 'a']));
    Tenant {
        runner: RunnerId::from_trusted(format!("r-{}", words[0])),
        class: ClassName::from_trusted(after("class").unwrap_or("default")),
        job: Some(JobId::from_trusted(words[0])),
        project: None,
        placement: Placement {
            cpus: CpuMillis(amount("cpu") * 1000),
            memory: MemoryBytes(amount("gib") * GIB),
            devices: devices.map(|id| GpuId::from_trusted(*id)).collect(),
            share: None,
            opened: None,
        },
        since: minute(0),
        ends_by: after("till").map(|at| minute(i64::try_from(number(at)).expect("a minute"))),
    }
}

/// `2cpu 1gib 2n>=40`: what a job needs; the letter is a vendor's, `x` is any.
fn wanted(text: &str) -> Requirement {
    let words: Vec<&str> = text.split_whitespace().collect();
    let amount = |unit: &str| words.iter().find_map(|word| word.strip_suffix(unit)).map_or(1, number);
    let gpus = words.iter().find_map(|word| {
        let (kind, least) = word.split_once(">=")?;
        let (count, letter) = kind.split_at(kind.len() - 1);
        let least = Some(number(least)).filter(|gib| *gib > 0).map(|gib| MemoryBytes(gib * GIB));
        let count = u32::try_from(number(count)).expect("a count");
        Some(GpuRequest { vendor: Some(letter).filter(|letter| *letter != "x").map(vendor), min_memory: least, ..GpuRequest::any(count) })
    });
    Requirement {
        class: ClassName::from_trusted("default"),
        arch: words.contains(&"arm64").then_some(Arch::Arm64),
        cpus: CpuMillis(amount("cpu") * 1000),
        memory: MemoryBytes(amount("gib") * GIB),
        gpus,
        runtime: None,
        start: Start::Any,
        emulation: crate::domain::Emulation::Deny,
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn vendor(id: &str) -> GpuVendor {
    if id.starts_with('n') { GpuVendor::Nvidia } else { GpuVendor::Amd }
}

fn tenants(text: &str) -> Vec<Tenant> {
    text.split(',').filter(|one| !one.trim().is_empty()).map(tenant).collect()
}

fn report(host: &str, running: &str, job: &str, limit: Option<u32>) -> HostReport {
    let (facts, tenants, requirement) = (machine(host), tenants(running), wanted(job));
    examine(&Machine { facts: &facts, tenants: &tenants, readiness: Readiness::Ready }, Wish { requirement: &requirement, limit })
}

/// `later cpus: a b; till 10`.
fn in_short(report: &HostReport) -> String {
    let mut words = vec![format!("{:?}", report.fits).to_lowercase()];
    for Missing { unfit, holders, unusable, .. } in &report.missing {
        let mut one = vec![format!("{}:", unfit.field())];
        one.extend(holders.iter().map(|holder| holder.job.as_ref().expect("a job").to_string()));
        one.extend(unusable.iter().map(|(gpu, reason)| format!("({gpu}: {reason})")));
        words.push(one.join(" ") + ";");
    }
    words.extend(report.room_by.map(|at| format!("till {}", (at.as_second() - minute(0).as_second()) / 60)));
    words.join(" ")
}

#[test]
fn who_waits_for_what() {
    let cases = [
        ["box1 4cpu 8gib", "", "2cpu", "now"],
        ["box1 4cpu 8gib", "a 3cpu 1gib till 10", "2cpu", "later cpus: a; till 10"],
        ["box1 4cpu 8gib", "a 1cpu 1gib till 30, b 3cpu 1gib till 10", "2cpu", "later cpus: b a; till 10"],
        ["box1 4cpu 8gib", "a 1cpu 1gib till 30, b 3cpu 1gib till 10", "4cpu", "later cpus: b a; till 30"],
        ["box1 4cpu 8gib", "a 3cpu 1gib, b 1cpu 1gib till 10", "2cpu", "later cpus: b a;"],
        ["box1 4cpu 8gib", "a 3cpu 1gib, b 1cpu 1gib till 10", "1cpu", "later cpus: b a; till 10"],
        ["box1 4cpu 8gib", "a 2cpu 7gib till 5, b 2cpu 1gib till 9", "1cpu 2gib", "later cpus: a b; memory: a b; till 5"],
        ["box1 4cpu 8gib", "a 1cpu 1gib till 5", "1cpu arm64", "never arch:;"],
        ["box1 4cpu 8gib", "a 3cpu 1gib till 5", "8cpu", "never cpus:;"],
        ["box1 9cpu 8gib n0/24 n1/80", "a 1cpu 1gib n1 till 5", "1cpu 1n>=40", "later gpus: a; till 5"],
        ["box1 9cpu 8gib n0/24 n1/80", "a 1cpu 1gib n0 till 5", "1cpu 1n>=40", "now"],
        ["box1 9cpu 8gib n0/24 n1/80", "a 1cpu 1gib n0 till 5, b 1cpu 1gib n1 till 3", "1cpu 2x>=0", "later gpus: b a; till 5"],
        ["box1 9cpu 8gib n0/24 a0/24", "a 1cpu 1gib n0 till 5, b 1cpu 1gib a0 till 3", "1cpu 1x>=0", "later gpus: b a; till 3"],
        ["box1 9cpu 8gib n0/24! n1/24", "a 1cpu 1gib n1 till 5", "1cpu 1n>=0", "later gpus: a (n0: Xid 79); till 5"],
        ["box1 9cpu 8gib n0/24! n1/24", "a 1cpu 1gib n1 till 5", "1cpu 2n>=0", "later gpus: a (n0: Xid 79);"],
    ];
    for [host, running, job, expected] in cases {
        assert_eq!(in_short(&report(host, running, job, None)), expected, "{host} | {running} | {job}");
    }
    let full = report("box1 9cpu 9gib", "a 1cpu 1gib till 7, b 1cpu 1gib class other till 3", "1cpu", Some(1));
    assert_eq!(in_short(&full), "later class: a; till 7");
}

#[test]
fn only_jobs_that_take_the_same_are_rivals() {
    let rival = |host: &str, running: &str, mine: &str, other: &str| {
        let (facts, mine, other) = (machine(host), wanted(mine), wanted(other));
        let wish = |requirement| Wish { requirement, limit: None };
        let report = report(host, running, "1cpu", None);
        let report = if running.is_empty() { report } else { examine_again(&facts, running, &mine) };
        competes(&facts, wish(&mine), &report, wish(&other))
    };
    let gpus = "box1 9cpu 8gib n0/24 a0/24";
    assert!(rival("box1 4cpu 8gib", "a 4cpu 1gib", "2cpu", "1cpu"), "both want processor time");
    assert!(!rival("box1 4cpu 8gib", "a 4cpu 1gib", "2cpu", "8cpu"), "the other never runs here");
    assert!(!rival("box1 4cpu 8gib", "a 4cpu 1gib", "2cpu", "1cpu arm64"), "the other never runs here");
    assert!(!rival(gpus, "a 1cpu 1gib n0", "1cpu 1n>=0", "1cpu"), "the other takes no GPU");
    assert!(!rival(gpus, "a 1cpu 1gib n0", "1cpu 1n>=0", "1cpu 1a>=0"), "the other takes another vendor's");
    assert!(rival(gpus, "a 1cpu 1gib n0", "1cpu 1n>=0", "1cpu 1x>=0"), "the other may take it");
    assert!(rival(gpus, "", "1cpu", "1cpu 1x>=0"), "whatever is taken first may take the room that there is");
}

fn examine_again(facts: &HostFacts, running: &str, mine: &Requirement) -> HostReport {
    examine(&Machine { facts, tenants: &tenants(running), readiness: Readiness::Ready }, Wish { requirement: mine, limit: None })
}

fn explained(standing: Standing, report: HostReport, ahead: Ahead) -> Explanation {
    Explanation::waiting(standing, vec![report], ahead, minute(1))
}

#[test]
fn an_estimate_is_given_only_where_timeouts_bound_it() {
    let waits = |running: &str| report("box1 4cpu 8gib", running, "2cpu", None);
    let start = |report: &HostReport, ahead| explained(Standing::Waiting, report.clone(), ahead).estimated_start;
    let busy = waits("a 3cpu 1gib till 10");
    assert_eq!(start(&busy, Ahead::Exactly(0)), Some(minute(10)));
    assert_eq!(start(&busy, Ahead::Exactly(1)), None, "nobody knows how long the other will run");
    assert_eq!(start(&busy, Ahead::MoreThan(1000)), None);
    assert_eq!(start(&waits("a 3cpu 1gib"), Ahead::Exactly(0)), None, "a warm runner may stay for ever");
    assert_eq!(start(&waits("a 3cpu 1gib till 0"), Ahead::Exactly(0)), Some(minute(1)), "never in the past");
    assert_eq!(start(&waits(""), Ahead::Exactly(0)), Some(minute(1)));
    assert_eq!(explained(Standing::BackOff(minute(20)), busy.clone(), Ahead::Exactly(0)).estimated_start, Some(minute(20)));
    let down = HostReport { readiness: Readiness::EngineDown { error: "refused".into(), since: minute(0) }, ..busy };
    assert_eq!(start(&down, Ahead::Exactly(0)), None);
}

#[test]
fn never_is_said_only_of_machines_that_are_known() {
    let never = report("box1 4cpu 8gib", "", "8cpu", None);
    let unasked = HostReport { readiness: Readiness::Unasked, ..never.clone() };
    let later = report("box2 9cpu 8gib", "a 9cpu 1gib", "8cpu", None);
    assert_eq!(ever(std::slice::from_ref(&never)), Some(Ever::Never));
    assert_eq!(ever(std::slice::from_ref(&unasked)), None);
    assert_eq!(ever(&[never.clone(), unasked]), None);
    assert_eq!(ever(&[never, later]), Some(Ever::Later));
}

#[test]
fn every_standing_has_its_sentence() {
    let since = minute(0);
    let busy = || report("box1 4cpu 8gib", "a 3cpu 7gib till 10", "2cpu 2gib", None);
    let of = |readiness: Readiness| HostReport { readiness, ..busy() };
    let down = || Readiness::EngineDown { error: "connection refused".into(), since };
    let starting =
        |readiness, preparing| Explanation::settled(Standing::Starting { since, host: HostId::from_trusted("box1"), readiness, preparing });
    let draining = || Readiness::Draining(Drain { since, by: Some("ops".into()), reason: Some("new kernel".into()) });
    let pull = || Preparing::Pull("Downloading 12MB of 45MB".into());
    let failed = Outcome::infrastructure(EndReason::StartFailed, "no such runtime");
    let all = [
        explained(Standing::Waiting, busy(), Ahead::Exactly(0)),
        explained(Standing::Waiting, busy(), Ahead::Exactly(1)),
        explained(Standing::Waiting, busy(), Ahead::MoreThan(1000)),
        explained(Standing::Waiting, report("box1 4cpu 8gib", "", "2cpu", None), Ahead::Exactly(3)),
        explained(Standing::Waiting, report("box1 4cpu 8gib n0/24", "a 1cpu", "8cpu 1n>=40", None), Ahead::Exactly(0)),
        explained(Standing::Waiting, report("box1 4cpu 8gib", "", "2cpu", None), Ahead::Exactly(3)).capped_by(Some(CapReached {
            project: ProjectName::from_trusted("team/app"),
            limit: Limit::Gpus,
            most: 4,
            used: 3,
        })),
        explained(Standing::Waiting, of(down()), Ahead::Exactly(2)),
        explained(Standing::Waiting, of(Readiness::Stopping), Ahead::Exactly(0)),
        explained(Standing::Waiting, of(draining()), Ahead::Exactly(0)),
        explained(Standing::Waiting, HostReport { fits: Fits::Now, missing: Vec::new(), ..of(Readiness::Unasked) }, Ahead::Exactly(0)),
        explained(Standing::BackOff(minute(9)), busy(), Ahead::Exactly(0)),
        explained(Standing::Handover(RunnerId::from_trusted("r1")), busy(), Ahead::Exactly(0)),
        starting(Readiness::Ready, Preparing::Image),
        starting(Readiness::Ready, pull()),
        starting(Readiness::Ready, Preparing::Container),
        starting(Readiness::Ready, Preparing::Start),
        starting(Readiness::Ready, Preparing::Runner),
        starting(Readiness::Ready, Preparing::Broker),
        starting(down(), pull()),
        starting(draining(), pull()),
        Explanation::settled(Standing::Running { since, timeout: Duration::from_secs(3600) }),
        Explanation::settled(Standing::Ending(EndReason::CanceledByUser)),
        Explanation::settled(Standing::Ended { at: since, outcome: Outcome::Succeeded }),
        Explanation::settled(Standing::Ended { at: since, outcome: failed }),
        Explanation::settled(Standing::Ended { at: since, outcome: Outcome::Canceled { reason: EndReason::CanceledByUser, detail: None } }),
    ];
    let sentences: Vec<String> = all.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(sentences.join("\n"));
}

#[test]
fn no_more_holders_are_named_than_fit_an_answer() {
    let running: Vec<String> = (0..40).map(|n| format!("j{n} 1cpu 1gib till {}", 40 - n)).collect();
    let report = report("box1 40cpu 64gib", &running.join(","), "2cpu", None);
    assert_eq!((report.missing[0].holders.len(), report.missing[0].more_holders), (MOST_HOLDERS, 24));
    assert_eq!(report.missing[0].holders[0].job, Some(JobId::from_trusted("j39")));
    assert_eq!(report.room_by, Some(minute(2)), "two CPUs are free when two have gone");
}

/// A machine with two kinds of GPUs, and runners that hold what the ledger gave them.
fn busy_machine() -> impl Strategy<Value = (HostFacts, Vec<Tenant>)> {
    let wish = (1_u64..4, 1_u64..6, 0_u32..3, prop::option::of(0_i64..50), any::<bool>());
    prop::collection::vec(wish, 0..12).prop_map(|wishes| {
        let facts = machine("box1 8cpu 16gib n0/24 n1/80 a0/16 a1/16!");
        let mut tenants: Vec<Tenant> = Vec::new();
        for (number, (cpus, memory, gpus, ends_by, other)) in wishes.into_iter().enumerate() {
            let class = if other { "other" } else { "default" };
            let mut tenant = tenant(&format!("j{number} class {class}"));
            tenant.ends_by = ends_by.map(minute);
            let need = wanted(&if gpus > 0 { format!("{cpus}cpu {memory}gib {gpus}x>=0") } else { format!("{cpus}cpu {memory}gib") });
            let given: Vec<&Tenant> = tenants.iter().collect();
            if let Ok(placement) = fit(&facts, &given, Wish { requirement: &need, limit: None }) {
                tenants.push(Tenant { placement, ..tenant });
            }
        }
        (facts, tenants)
    })
}

fn any_wish() -> impl Strategy<Value = (Requirement, Option<u32>)> {
    let gpus = prop::option::of((1_u32..4, prop::sample::select(vec!["n", "a", "x"]), prop::sample::select(vec![0_u64, 20, 40])));
    (1_u64..11, 1_u64..20, gpus, prop::option::of(0_u32..4), any::<bool>()).prop_map(|(cpus, memory, gpus, limit, arm)| {
        let gpus = gpus.map_or(String::new(), |(count, vendor, least)| format!("{count}{vendor}>={least}"));
        (wanted(&format!("{cpus}cpu {memory}gib {gpus}{}", if arm && cpus == 1 { " arm64" } else { "" })), limit)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// An explanation says "now" exactly when the scheduler would place the job, and "never" exactly when it would be refused.
    #[test]
    fn an_explanation_agrees_with_the_ledger((facts, tenants) in busy_machine(), (requirement, limit) in any_wish()) {
        let wish = Wish { requirement: &requirement, limit };
        let report = examine(&Machine { facts: &facts, tenants: &tenants, readiness: Readiness::Ready }, wish);
        let placed = Ledger::new(&facts, tenants.iter().map(|tenant| (&tenant.class, &tenant.placement))).fit(&requirement, limit);
        prop_assert_eq!(report.fits == Fits::Now, placed.is_ok());
        prop_assert_eq!(report.missing.is_empty(), placed.is_ok());
        let refused = fits_ever(&facts, &requirement, limit).err().unwrap_or_default();
        prop_assert_eq!(report.fits == Fits::Never, !refused.is_empty());
        let said = |unfit: &Unfit| (unfit.field(), unfit.to_string());
        let (never, refused): (Vec<_>, Vec<_>) = (report.never().map(said).collect(), refused.iter().map(said).collect());
        prop_assert_eq!(never, refused, "explained and refused with the same words");
    }

    /// The time named is the first at which there is room when everybody leaves at the end of their timeout.
    #[test]
    fn room_comes_when_the_last_that_is_in_the_way_has_gone((facts, tenants) in busy_machine(), (requirement, limit) in any_wish()) {
        let wish = Wish { requirement: &requirement, limit };
        let report = examine(&Machine { facts: &facts, tenants: &tenants, readiness: Readiness::Ready }, wish);
        let mut ends: Vec<Timestamp> = tenants.iter().filter_map(|tenant| tenant.ends_by).collect();
        ends.sort();
        let left = |at: Timestamp| tenants.iter().filter(|tenant| tenant.ends_by.is_none_or(|end| end > at)).collect::<Vec<_>>();
        let expected = ends.into_iter().find(|at| fit(&facts, &left(*at), wish).is_ok()).filter(|_| report.fits == Fits::Later);
        prop_assert_eq!(report.room_by, expected);
        // Somebody is named for everything that only somebody's end can cure.
        for missing in &report.missing {
            let nobody = missing.holders.is_empty() && missing.unusable.is_empty();
            prop_assert!(missing.unfit.ever() == Ever::Never || !nobody, "{missing:?}");
        }
    }
}
