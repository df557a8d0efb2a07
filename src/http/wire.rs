//! A problem as it is sent.

use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::words;
use crate::domain::FieldFault;

/// The body.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Wire {
    #[schema(value_type = words::ProblemType)]
    pub(super) r#type: String,
    pub(super) title: &'static str,
    pub(super) status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) errors: Vec<WireFault>,
}

/// One field at fault.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FieldProblem)]
pub(super) struct WireFault {
    field: String,
    message: String,
}

impl From<FieldFault> for WireFault {
    fn from(fault: FieldFault) -> Self {
        Self { field: fault.field, message: fault.message }
    }
}
