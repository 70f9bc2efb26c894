//! `--prior DIR`: what an earlier study knows, kept in this study's journal, so that its folder alone says what the
//! search was told. Used by the search and by nothing else: the finals never see it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::agenda;
use crate::exit::{self, ExitError};
use crate::optimizer;
use crate::space::Space;
use crate::store::{Journal, Sqlite, StoreError, kinds};
use crate::trial::{History, Observation};

/// Most observations that are taken over, the latest: more would slow every ask and hardly move the model.
const MOST: usize = 300;
/// Observations an event: its text stays far below what the journal keeps whole.
const AT_A_TIME: usize = 100;

#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    from: String,
    lines: Vec<Observation>,
}

/// The observations that this study began with; empty without a prior.
pub(crate) async fn recorded(store: &impl Journal) -> Result<History, ExitError> {
    Ok(events(store).await?.into_iter().flat_map(|r| r.lines).collect())
}

async fn events(store: &impl Journal) -> Result<Vec<Recorded>, ExitError> {
    let all = store.events(kinds::PRIOR).await?;
    all.into_iter()
        .map(|v| {
            serde_json::from_value(v).map_err(|e| {
                StoreError::Unreadable(format!(
                    "the earlier study's observations in this study's journal cannot be read: {e}"
                ))
                .into()
            })
        })
        .collect()
}

/// Takes over what the study in `dir` says about `space`, once; gives how many observations that were, or None where
/// they had been taken over before. Errors: no study there, nothing in it that fits, or another prior recorded before.
pub(crate) async fn take_over(
    store: &impl Journal,
    space: &Space,
    dir: &Path,
) -> Result<Option<usize>, ExitError> {
    let from = std::path::absolute(dir)
        .unwrap_or_else(|_| dir.to_path_buf())
        .display()
        .to_string();
    if let Some(before) = events(store).await?.first() {
        return if before.from == from {
            Ok(None)
        } else {
            Err(ExitError::new(
                exit::DATA,
                format!(
                    "this study began with --prior {}, and takes no second one: leave --prior out, or begin a new study",
                    before.from
                ),
            ))
        };
    }
    let earlier = Sqlite::open_read_only(dir).await?;
    let trials = earlier.trials().await;
    earlier.close().await;
    let mut lines = optimizer::prior_history(space, &agenda::history(&trials?));
    if lines.is_empty() {
        return Err(ExitError::new(
            exit::DATA,
            format!(
                "--prior {}: no trial of that study fits this space; leave --prior out",
                dir.display()
            ),
        ));
    }
    lines.drain(..lines.len().saturating_sub(MOST));
    for part in lines.chunks(AT_A_TIME) {
        let detail = Recorded {
            from: from.clone(),
            lines: part.to_vec(),
        };
        store
            .log(kinds::PRIOR, &serde_json::to_value(detail).unwrap_or_default())
            .await?;
    }
    Ok(Some(lines.len()))
}
