pub mod broker;
pub mod contacts;
