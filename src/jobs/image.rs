//! In which image a job of GitLab runs, or why it does not. Pure: everything comes from the class and from what the job asks for.

use crate::config::{Class, JobImage};
use crate::domain::{HostFile, ImagePattern, ImageRef, Keywords, Start};

/// What becomes of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It runs in the class's image.
    OfClass,
    /// It runs in an image of its own.
    OfJob {
        /// Spelled out in full: exactly what was compared with the patterns.
        image: ImageRef,
        /// The runner that the image is lent.
        runner: HostFile,
    },
    /// It cannot run; a sentence for the job's people.
    Refused(String),
}

impl Decision {
    /// Whether a runner that waits, in the class's image, will do. A refused job is given to none either: it must not run.
    pub(super) fn start(&self) -> Start {
        match self {
            Self::OfClass => Start::Any,
            Self::OfJob { .. } | Self::Refused(_) => Start::Fresh,
        }
    }
}

/// Decides by what the class allows.
pub(super) fn decide(class: &Class, keywords: &Keywords) -> Decision {
    let name = &class.name;
    if keywords.has_services {
        let advice = "remove the keyword, or start what the job needs in its script";
        return Decision::Refused(format!("the job has services:, which class {name} of the coordinator does not offer yet; {advice}"));
    }
    let Some(image) = &keywords.image else { return Decision::OfClass };
    let shown = &image.shown;
    match (&class.job_image, ImageRef::parse("image", &image.name)) {
        (JobImage::Ignore, _) => Decision::OfClass,
        (JobImage::Deny, _) => {
            let advice = "remove the keyword, use a runner whose own image fits, or ask its administrator to set job_image";
            Decision::Refused(format!("the job names image: {shown}, and class {name} of the coordinator takes no images of jobs; {advice}"))
        }
        (JobImage::Allow { .. }, Err(_)) => {
            Decision::Refused(format!("the job names image: {shown}, which is no image reference; correct it, or define the variables in it"))
        }
        (JobImage::Allow { images, runner_binary }, Ok(image)) if images.is_empty() || images.iter().any(|pattern| pattern.matches(&image)) => {
            Decision::OfJob { image: image.qualified(), runner: runner_binary.clone() }
        }
        (JobImage::Allow { images, .. }, Ok(_)) => Decision::Refused(format!(
            "the job names image: {shown}, and class {name} of the coordinator takes only {}; name one of these, or ask its administrator to add it to job_images",
            listed(images)
        )),
    }
}

/// The patterns, as many as fit a sentence.
fn listed(images: &[ImagePattern]) -> String {
    const MOST: usize = 5;
    let more = if images.len() > MOST { " and others" } else { "" };
    images.iter().take(MOST).map(ImagePattern::as_str).collect::<Vec<_>>().join(", ") + more
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{ClassName, NamedImage};

    fn class(job_image: JobImage) -> Class {
        Class { job_image, ..Class::named(ClassName::from_trusted("gpu")) }
    }

    fn allow(patterns: &[&str]) -> Class {
        let images = patterns.iter().map(|text| ImagePattern::parse("p", text).expect("a pattern")).collect();
        class(JobImage::Allow { images, runner_binary: HostFile::parse("f", "/r").expect("a path") })
    }

    fn image(name: &str) -> Keywords {
        Keywords { image: Some(NamedImage { name: name.to_owned(), shown: name.to_owned() }), has_services: false }
    }

    fn of_job(name: &str) -> Decision {
        Decision::OfJob { image: ImageRef::from_trusted(name), runner: HostFile::parse("f", "/r").expect("a path") }
    }

    #[test]
    fn the_class_decides() {
        assert_eq!(decide(&class(JobImage::Deny), &Keywords::default()), Decision::OfClass);
        assert_eq!(decide(&class(JobImage::Ignore), &image("debian")), Decision::OfClass);
        assert_eq!(decide(&class(JobImage::Ignore), &image("No Reference")), Decision::OfClass);
        assert_eq!(decide(&allow(&[]), &image("debian")), of_job("docker.io/library/debian:latest"));
        assert_eq!(decide(&allow(&["x", "alpine:*"]), &image("alpine:3")), of_job("docker.io/library/alpine:3"));
        assert_eq!(decide(&allow(&[]), &Keywords::default()), Decision::OfClass);
    }

    #[test]
    fn every_refusal_says_what_where_and_what_to_do() {
        let services = |class: &Class| decide(class, &Keywords { has_services: true, ..image("debian") });
        let all = [
            decide(&class(JobImage::Deny), &image("debian")),
            decide(&allow(&[]), &image("$UNKNOWN")),
            decide(&allow(&["alpine:*", "registry.example.com/*"]), &image("debian")),
            decide(&allow(&["a", "b", "c", "d", "e", "f"]), &image("debian")),
            services(&allow(&[])),
        ];
        assert_eq!(services(&class(JobImage::Ignore)), all[4], "services are refused whatever becomes of images");
        let words: Vec<String> = all.into_iter().map(|decision| format!("{decision:?}")).collect();
        insta::assert_snapshot!(words.join("\n"));
    }

    proptest! {
        #[test]
        fn only_what_a_pattern_takes_is_run_and_only_by_its_full_name(name in "[a-c.:/@ ]{0,12}", pattern in "[a-c.:/*]{1,6}") {
            match decide(&allow(&[&pattern]), &image(&name)) {
                Decision::OfJob { image, .. } => {
                    prop_assert_eq!(image.qualified(), image.clone());
                    prop_assert!(ImagePattern::parse("p", &pattern).expect("a pattern").matches(&image));
                    prop_assert!(ImageRef::parse("image", image.as_str()).is_ok());
                }
                Decision::Refused(_) => {}
                Decision::OfClass => prop_assert!(false, "an image was ignored"),
            }
        }

        #[test]
        fn a_runner_that_waits_is_for_jobs_of_the_class_image_only(name in "[a-c.:/]{0,8}", has_services: bool) {
            let keywords = Keywords { has_services, ..image(&name) };
            for class in [class(JobImage::Deny), class(JobImage::Ignore), allow(&["a*"])] {
                let decision = decide(&class, &keywords);
                prop_assert_eq!(decision.start() == Start::Any, decision == Decision::OfClass);
            }
        }
    }
}
