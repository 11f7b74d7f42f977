//! What people and scripts read: tables, templates, units, and the escaping of what is not ours.

pub(crate) mod choice;
pub(crate) mod escape;
pub(crate) mod indent;
pub(crate) mod table;
pub(crate) mod template;
pub(crate) mod units;
