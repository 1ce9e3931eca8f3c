//! Passwords: Argon2id (RFC 9106), stored as PHC strings.
//!
//! Hashes that users bring along from elsewhere are verified, too, until they are replaced: by bcrypt (`$2a$`, `$2b$`,
//! `$2y$`), and by scrypt (RFC 7914) as PHC strings `$scrypt$ln=…,r=…,p=…$salt$hash`.

use std::fmt;

use argon2::password_hash::phc::{Ident, Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};

use crate::random;
use unicode_normalization::UnicodeNormalization;

/// No stored hash makes a sign-in take more memory than this, in KiB.
pub const MAX_MEMORY: u32 = 2 << 20;
/// Nor more time: two to the power of this, in rounds of bcrypt, is minutes.
const MAX_BCRYPT_COST: u32 = 16;
const MAX_SCRYPT_PARALLELISM: u32 = 64;
/// What the setting of our own allows.
const MAX_ITERATIONS: u32 = 1000;

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

/// What is stored of a password, as far as it can be verified.
enum Stored<'a> {
    Bcrypt(&'a str),
    Argon2id { version: Version, params: Params, salt: Salt, output: Output },
    Scrypt { params: scrypt::Params, memory: usize, salt: Salt, output: Output },
}

fn parse(hash: &str) -> Result<Stored<'_>, PasswordError> {
    if hash.starts_with("$2") {
        let parts: bcrypt::HashParts = hash.parse().map_err(|_| PasswordError::Unknown)?;
        return if parts.get_cost() > MAX_BCRYPT_COST {
            Err(PasswordError::Unknown)
        } else {
            Ok(Stored::Bcrypt(hash))
        };
    }
    let hash = PasswordHash::new(hash).map_err(|_| PasswordError::Unknown)?;
    match hash.algorithm {
        algorithm if algorithm == Algorithm::Argon2id.ident() => parse_argon2id(&hash),
        algorithm if algorithm.as_str() == "scrypt" => parse_scrypt(&hash),
        _ => Err(PasswordError::Unknown),
    }
}

fn parse_argon2id(hash: &PasswordHash) -> Result<Stored<'static>, PasswordError> {
    let (Some(salt), Some(output)) = (hash.salt, hash.hash) else { return Err(PasswordError::Unknown) };
    let version = match hash.version {
        Some(version) => Version::try_from(version).map_err(|_| PasswordError::Unknown)?,
        None => Version::V0x13,
    };
    let params = Params::try_from(hash).map_err(|_| PasswordError::Unknown)?;
    if params.m_cost() > MAX_MEMORY || params.t_cost() > MAX_ITERATIONS {
        return Err(PasswordError::Unknown);
    }
    Ok(Stored::Argon2id { version, params, salt, output })
}

fn parse_scrypt(hash: &PasswordHash) -> Result<Stored<'static>, PasswordError> {
    let (Some(salt), Some(output)) = (hash.salt, hash.hash) else { return Err(PasswordError::Unknown) };
    let number = |name| hash.params.get_decimal(name).ok_or(PasswordError::Unknown);
    let (log_n, r, p) = (number("ln")?, number("r")?, number("p")?);
    let log_n = u8::try_from(log_n).ok().filter(|log_n| *log_n < 32).ok_or(PasswordError::Unknown)?;
    // Blocks of 128 bytes, as many as N times r, and a few more.
    let memory = (1_u64 << log_n).saturating_mul(u64::from(r)).saturating_add(u64::from(p)).saturating_mul(128);
    if memory > u64::from(MAX_MEMORY) * 1024 || p > MAX_SCRYPT_PARALLELISM {
        return Err(PasswordError::Unknown);
    }
    let params = scrypt::Params::new(log_n, r, p).map_err(|_| PasswordError::Unknown)?;
    Ok(Stored::Scrypt { params, memory: memory as usize, salt, output })
}

/// Whether it is the password that `hash` was made from.
///
/// # Errors
/// [`PasswordError`] where it is not a hash of a known kind, or there is not enough memory.
pub fn verify(password: &str, hash: &str) -> Result<bool, PasswordError> {
    // Outputs compare in constant time.
    match parse(hash)? {
        // Only the first 72 bytes of a password count, as everywhere with bcrypt.
        Stored::Bcrypt(hash) => bcrypt::verify(password, hash).map_err(|_| PasswordError::Unknown),
        Stored::Argon2id { version, params, salt, output } => {
            Ok(argon2id(password, &salt, version, &params)? == output)
        }
        Stored::Scrypt { params, memory, salt, output } => {
            Ok(scrypt(password, &salt, &params, memory, output.len())? == output)
        }
    }
}

fn scrypt(
    password: &str,
    salt: &Salt,
    params: &scrypt::Params,
    memory: usize,
    length: usize,
) -> Result<Output, PasswordError> {
    // The library's own allocation would end the process where memory is short.
    Vec::<u8>::new().try_reserve_exact(memory).map_err(|_| PasswordError::Memory)?;
    // Those who hash passwords with scrypt make its composed and decomposed characters one first.
    let password: String = password.nfkc().collect();
    let mut output = vec![0; length];
    scrypt::scrypt(password.as_bytes(), salt, params, &mut output).map_err(|_| PasswordError::Unknown)?;
    Output::new(&output).map_err(|_| PasswordError::Unknown)
}

/// Whether [`verify`] knows hashes of this kind and cost.
pub fn is_known(hash: &str) -> bool {
    parse(hash).is_ok()
}

/// The PHC string of a hash that better-auth made: salt and hash in hexadecimal, with a colon between them, by scrypt
/// with N = 16384, r = 16, p = 1, the salt's text being the salt.
pub fn from_better_auth(hash: &str) -> Option<String> {
    let (salt, key) = hash.split_once(':')?;
    let output = (0..key.len()).step_by(2).map(|i| u8::from_str_radix(key.get(i..i + 2)?, 16).ok());
    let output = Output::new(&output.collect::<Option<Vec<u8>>>()?).ok()?;
    let mut params = ParamsString::new();
    for (name, value) in [("ln", 14), ("r", 16), ("p", 1)] {
        params.add_decimal(name, value).ok()?;
    }
    let hash = PasswordHash {
        algorithm: Ident::new("scrypt").ok()?,
        version: None,
        params,
        salt: Some(Salt::new(salt.as_bytes()).ok()?),
        hash: Some(output),
    };
    Some(hash.to_string())
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
            PasswordError::Unknown => "the stored password hash is of no known kind",
        })
    }
}

impl std::error::Error for PasswordError {}
