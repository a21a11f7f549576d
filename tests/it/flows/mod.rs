//! The architecture's flows.

use crate::harness::{Stack, on_both};

on_both!(connect);

/// The first connection goes to ws1.
async fn connect(stack: Stack) {
    let a = stack.person("userA").await;
    assert_eq!(a.server, "ws1");
    stack.stop().await;
}
