//! Stand-in.
use crate::error::Result;
pub struct ClientAddress;
impl ClientAddress {
    pub fn current() -> Result<Self> {
        Ok(Self)
    }
}
