//! Passwords: Argon2id (RFC 9106), stored as PHC strings.

use std::fmt;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};

use crate::random;

/// No stored hash makes a sign-in take more memory than this, in KiB.
pub const MAX_MEMORY: u32 = 2 << 20;

/// What computing a hash takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Memory, in KiB.
    pub memory: u32,
    pub iterations: u32,
    pub parallelism: u32,
}

/// Hashes a password, with a random salt.
///
/// # Errors
/// [`PasswordError`] where Argon2 does not take the cost, or there is not enough memory.
pub fn hash(password: &str, cost: Cost) -> Result<String, PasswordError> {
    let params =
        Params::new(cost.memory, cost.iterations, cost.parallelism, None).map_err(|_| PasswordError::Cost)?;
    let salt = Salt::new(&random::nonce()).map_err(|_| PasswordError::Cost)?;
    let output = argon2id(password, &salt, Version::V0x13, &params)?;
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).map_err(|_| PasswordError::Cost)?,
        salt: Some(salt),
        hash: Some(output),
    };
    Ok(hash.to_string())
}

/// Whether it is the password that `hash`, a PHC string, was made from.
///
/// # Errors
/// [`PasswordError`] where it is not a hash by Argon2id, or there is not enough memory.
pub fn verify(password: &str, hash: &str) -> Result<bool, PasswordError> {
    let hash = PasswordHash::new(hash).map_err(|_| PasswordError::Unknown)?;
    let (Some(salt), Some(expected)) = (hash.salt, hash.hash) else { return Err(PasswordError::Unknown) };
    if hash.algorithm != Algorithm::Argon2id.ident() {
        return Err(PasswordError::Unknown);
    }
    let version = match hash.version {
        Some(version) => Version::try_from(version).map_err(|_| PasswordError::Unknown)?,
        None => Version::V0x13,
    };
    let params = Params::try_from(&hash).map_err(|_| PasswordError::Unknown)?;
    if params.m_cost() > MAX_MEMORY {
        return Err(PasswordError::Unknown);
    }
    // Outputs compare in constant time.
    Ok(argon2id(password, &salt, version, &params)? == expected)
}

/// Whether `hash` was made at this cost; false also where it is no hash by Argon2id.
pub fn is_of_cost(hash: &str, cost: Cost) -> bool {
    let params = PasswordHash::new(hash).ok().and_then(|hash| Params::try_from(&hash).ok());
    params.is_some_and(|params| {
        (params.m_cost(), params.t_cost(), params.p_cost()) == (cost.memory, cost.iterations, cost.parallelism)
    })
}

fn argon2id(password: &str, salt: &Salt, version: Version, params: &Params) -> Result<Output, PasswordError> {
    // Where memory is short this must fail by itself: a failed allocation would end the process.
    let mut memory: Vec<Block> = Vec::new();
    memory.try_reserve_exact(params.block_count()).map_err(|_| PasswordError::Memory)?;
    memory.resize(params.block_count(), Block::default());
    let mut output = vec![0; params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN)];
    Argon2::new(Algorithm::Argon2id, version, params.clone())
        .hash_password_into_with_memory(password.as_bytes(), salt, &mut output, &mut memory)
        .map_err(|_| PasswordError::Cost)?;
    Output::new(&output).map_err(|_| PasswordError::Cost)
}

/// Why a password could not be hashed or verified.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PasswordError {
    /// Argon2 does not work with these parameters.
    Cost,
    /// There is not enough memory.
    Memory,
    /// What is stored is not a hash of a known kind.
    Unknown,
}

impl fmt::Display for PasswordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PasswordError::Cost => "Argon2 does not work with these parameters",
            PasswordError::Memory => "there is not enough memory to hash the password",
            PasswordError::Unknown => "the stored password hash is not one by Argon2id",
        })
    }
}

impl std::error::Error for PasswordError {}
