//! Which images go, and who waits for whom.

use proptest::prelude::*;

use super::*;

fn image(name: &str) -> ImageRef {
    ImageRef::from_trusted(name).qualified()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn any_kept() -> impl Strategy<Value = Vec<Kept>> {
    let one = (0_u8..20, 0_i64..10, any::<bool>());
    prop::collection::btree_map(0_u8..20, one, 0..12).prop_map(|all| {
        let kept = |(name, (_, used, in_use)): (u8, (u8, i64, bool))| Kept {
            image: image(&format!("i{name}")),
            used_at: at(used),
            use_of: if in_use { UseOf::Container } else { UseOf::Nothing },
        };
        all.into_iter().map(kept).collect()
    })
}

proptest! {
    #[test]
    fn what_is_used_or_spared_stays_and_the_rest_goes_oldest_use_first(kept in any_kept(), spared in prop::collection::btree_set(0_u8..20, 0..8), than in 0_i64..12) {
        let spared: Vec<ImageRef> = spared.into_iter().map(|name| image(&format!("i{name}"))).collect();
        let of = |name: &ImageRef| kept.iter().find(|one| one.image == *name).expect("one of them");
        for need in [Need::Room, Need::Older(at(than))] {
            let gone = to_go(&kept, |image| spared.contains(image), need);
            for one in &kept {
                let old = need == Need::Room || one.used_at < at(than);
                let goes = one.use_of == UseOf::Nothing && !spared.contains(&one.image) && old;
                prop_assert_eq!(gone.contains(&&one.image), goes, "{:?}", one);
            }
            prop_assert!(gone.windows(2).all(|two| of(two[0]).used_at <= of(two[1]).used_at), "{:?}", gone);
        }
    }
}

#[test]
fn images_of_classes_and_pinned_ones_are_spared_by_their_full_names() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("c.toml");
    let toml = "[[classes]]\nname = \"a\"\nimage = \"alpine\"\n[images]\npinned = [\"registry.example.com/ci/*\", \"debian:*\"]";
    std::fs::write(&file, format!("data_dir = \"{}\"\n{toml}", dir.path().display())).expect("written");
    let config = Config::load(Some(&file), std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"));
    for spared in ["alpine:latest", "docker.io/library/alpine", "debian:bookworm", "registry.example.com/ci/tool:1"] {
        assert!(is_spared(&config, &image(spared)), "{spared}");
    }
    for other in ["alpine:3", "team/debian:1", "registry.example.com/other/tool:1"] {
        assert!(!is_spared(&config, &image(other)), "{other}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_launch_and_a_removal_of_one_image_wait_for_each_other_and_others_do_not() {
    let book = ImageBook::default();
    let (one, other) = (image("one"), image("other"));
    let held = book.hold(&ImageRef::from_trusted("one")).await;
    let again = book.hold(&one).await;
    assert!(book.begin_removal(&one).is_none(), "it is about to be used");
    drop(held);
    assert!(book.begin_removal(&one).is_none(), "by two");
    drop(again);
    let removing = book.begin_removal(&one).expect("nobody uses it");
    let soon = Duration::from_secs(1);
    assert!(tokio::time::timeout(soon, book.hold(&one)).await.is_err(), "it waits until the image is gone, and has it fetched again");
    assert!(tokio::time::timeout(soon, book.hold(&other)).await.is_ok());
    let (held, ()) = tokio::join!(tokio::time::timeout(soon, book.hold(&one)), async { drop(removing) });
    drop(held.expect("it went on"));
    assert!(book.busy().held.is_empty(), "nothing is left of those that are over");
}
