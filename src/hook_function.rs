//! A function of the application that is a hook: finding it and calling it.

use crate::as_owner;
use crate::error::Result;
use crate::jsonb::Jsonb;
use crate::spi::{self, Statement};
use pgrx::{IntoDatum, pg_sys};
use serde_json::Value;

/// A function as `pg_proc` has it.
pub struct Function {
    oid: pg_sys::Oid,
    pub owner: pg_sys::Oid,
    pub owner_name: String,
    pub schema: String,
    pub name: String,
    /// For messages.
    pub signature: String,
    pub is_temporary: bool,
    is_ordinary: bool,
    result: pg_sys::Oid,
}

/// The columns of [`Function::read`], from `pg_proc` and `pg_namespace`.
macro_rules! select {
    ($condition:literal) => {
        spi::literal(concat!(
            "select p.oid, p.proowner, pg_catalog.pg_get_userbyid(p.proowner)::text, n.nspname::text, p.proname::text,
                    pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.oidvectortypes(p.proargtypes)),
                    n.oid = pg_catalog.pg_my_temp_schema(),
                    p.prokind = 'f' and not p.proretset and p.pronargs = 1
                        and p.proargtypes[0] = 'pg_catalog.jsonb'::pg_catalog.regtype,
                    p.prorettype
             from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace where ",
            $condition,
            "\0"
        ))
    };
}

impl Function {
    /// The function `schema.name(jsonb)`, wherever the `search_path` leads.
    pub fn find(schema: &str, name: &str) -> Result<Option<Self>> {
        static SELECT: Statement = Statement::new(
            select!(
                "n.nspname = $1::pg_catalog.name and p.proname = $2::pg_catalog.name and p.pronargs = 1
                 and p.proargtypes[0] = 'pg_catalog.jsonb'::pg_catalog.regtype"
            ),
            &[pg_sys::TEXTOID, pg_sys::TEXTOID],
        );
        SELECT.first(&[spi::value(schema), spi::value(name)], |row| Ok(Self::read(row)))
    }

    /// The function with this OID.
    pub fn with_oid(oid: pg_sys::Oid) -> Result<Option<Self>> {
        static SELECT: Statement = Statement::new(select!("p.oid = $1"), &[pg_sys::OIDOID]);
        SELECT.first(&[spi::value(oid)], |row| Ok(Self::read(row)))
    }

    fn read(row: &spi::Row) -> Self {
        let oid = |n| row.get::<pg_sys::Oid>(n).unwrap_or(pg_sys::InvalidOid);
        let text = |n| row.get::<String>(n).unwrap_or_default();
        let truth = |n| row.get::<bool>(n).unwrap_or(false);
        Self {
            oid: oid(1),
            owner: oid(2),
            owner_name: text(3),
            schema: text(4),
            name: text(5),
            signature: text(6),
            is_temporary: truth(7),
            is_ordinary: truth(8),
            result: oid(9),
        }
    }

    /// Whether it takes an event, and gives an answer where there has to be one.
    pub fn fits(&self, has_to_answer: bool) -> bool {
        self.is_ordinary && (self.result == pg_sys::JSONBOID || (self.result == pg_sys::VOIDOID && !has_to_answer))
    }

    /// Calls it with its owner's rights and returns its answer, the text of a `jsonb`; `None` where it returns NULL or
    /// nothing. It sees what this transaction has written.
    ///
    /// # Errors
    /// Whatever it raises.
    pub fn call(&self, event: Value) -> Result<Option<String>> {
        as_owner::call(self.owner, || {
            let answer = unsafe {
                pg_sys::CommandCounterIncrement();
                pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
                let answer = call(self.oid, Jsonb(event).into_datum())?;
                pg_sys::PopActiveSnapshot();
                answer
            };
            Ok(answer.filter(|_| self.result == pg_sys::JSONBOID).map(crate::json::text))
        })
    }
}

/// Calls a function of one argument, as Postgres's `FunctionCall1` does, but it may return NULL.
unsafe fn call(function: pg_sys::Oid, argument: Option<pg_sys::Datum>) -> Result<Option<pg_sys::Datum>> {
    unsafe {
        let info = pg_sys::palloc0(size_of::<pg_sys::FmgrInfo>()) as *mut pg_sys::FmgrInfo;
        pg_sys::fmgr_info(function, info);
        let size = size_of::<pg_sys::FunctionCallInfoBaseData>() + size_of::<pg_sys::NullableDatum>();
        let frame = pg_sys::palloc0(size) as pg_sys::FunctionCallInfo;
        (*frame).flinfo = info;
        (*frame).nargs = 1;
        let value = argument.unwrap_or(pg_sys::Datum::from(0));
        *(*frame).args.as_mut_ptr() = pg_sys::NullableDatum { value, isnull: argument.is_none() };
        let Some(code) = (*info).fn_addr else { return Ok(None) };
        let answer = spi::catch(|| code(frame))?;
        Ok((!(*frame).isnull).then_some(answer))
    }
}
