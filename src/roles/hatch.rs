//! Where a server takes sockets from balancers of its host: `--handoff DIR`.

use std::path::Path;

use crate::edge::handoff::{BadFolder, Folder};
use crate::gateway::Hatch;
use crate::node::{Node, NodeError};
use crate::protocol::ProcessId;

fn usage(error: BadFolder) -> NodeError {
    NodeError::Usage(error.to_string())
}

/// Checks the folder, before anything is started: who has taken another living process's name on
/// the board has stopped that one.
pub fn folder(given: Option<&Path>, server: &ProcessId) -> Result<Option<Folder>, NodeError> {
    let Some(path) = given else { return Ok(None) };
    let folder = Folder::open(path).map_err(usage)?;
    folder.vacate(server).map_err(usage)?;
    Ok(Some(folder))
}

/// Takes sockets in there, until all is stopped. Whoever dials before that finds nobody, and does
/// not wait; whoever does before the server is open is told so.
pub fn serve(node: &Node, folder: Option<&Folder>) -> Result<(), NodeError> {
    let (Some(folder), Some(part)) = (folder, node.parts.first()) else { return Ok(()) };
    let Some(gateway) = part.gateway.clone() else { return Ok(()) };
    let hatch = Hatch::open(folder, &part.chat.me.id).map_err(usage)?;
    node.watchers.spawn(hatch.serve(gateway, node.background.clone()));
    Ok(())
}
