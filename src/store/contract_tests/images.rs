//! Images that were fetched for us.

use super::*;

pub(in crate::store) async fn images_are_remembered_by_host_and_by_their_last_use(store: &dyn Store) {
    let (here, there) = (HostId::from_trusted("box1"), HostId::from_trusted("box2"));
    let (a, b) = (ImageRef::from_trusted("docker.io/library/a:1"), ImageRef::from_trusted("docker.io/library/b:1"));
    let of = async |host| store.images(host).await.expect("images");
    store.use_images(&here, std::slice::from_ref(&a), t(1)).await.expect("not ours, and no fault");
    assert_eq!(of(&here).await, []);
    store.remember_image(&here, &a, t(2)).await.expect("kept");
    store.remember_image(&here, &b, t(3)).await.expect("kept");
    assert_eq!((of(&here).await, of(&there).await), (vec![(a.clone(), t(2)), (b.clone(), t(3))], vec![]));
    store.use_images(&here, &[a.clone(), ImageRef::from_trusted("c")], t(4)).await.expect("noted");
    store.use_images(&here, std::slice::from_ref(&b), t(1)).await.expect("an earlier use changes nothing");
    store.remember_image(&here, &b, t(1)).await.expect("nor does an earlier pull");
    assert_eq!(of(&here).await, [(b.clone(), t(3)), (a.clone(), t(4))]);
    store.forget_image(&here, &b).await.expect("forgotten");
    store.forget_image(&here, &b).await.expect("it is gone already");
    assert_eq!(of(&here).await, [(a, t(4))]);
}
