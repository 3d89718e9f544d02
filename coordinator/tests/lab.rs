//! Fence, quiesce and undo in a real cluster: `TRANSHIP_LAB` is the folder of a lab that runs (`cargo xtask lab up`). Without
//! it these tests say that they are skipped. Each has a namespace of its own, which it removes.

mod lab {
    mod fence;
    mod quiesce;
    pub(crate) mod space;
}
