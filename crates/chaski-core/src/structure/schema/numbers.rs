//! Checks the numbers in schemas: llguidance stores them as floats, so a number is either exact or an error.

use serde_json::{Map, Number, Value};

use super::keywords::types;
use super::{Pointer, SchemaError, shortened, wrong};

/// 2^53: from here on, some integers are not floats.
const FAR: f64 = (1u64 << 53) as f64;

/// Largest length or count.
const MAX_COUNT: u64 = 1 << 31;

/// How a number is written in the schema.
enum Written {
    /// As digits only.
    Whole(i128),
    /// With a point or an exponent, or with more than 64 bits: the nearest float.
    Float(f64),
}

fn written(number: &Number) -> Written {
    let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    whole.map_or_else(|| Written::Float(number.as_f64().unwrap_or(f64::INFINITY)), Written::Whole)
}

/// Whether an integer can be stored as a float.
fn is_float(whole: i128) -> bool {
    (whole as f64) as i128 == whole
}

/// Whether llguidance stores an integer exactly. It converts integers to a float and then to i64, and negates bounds,
/// which overflows for `i64::MIN`.
fn is_kept_whole(whole: i128) -> bool {
    i128::from((whole as f64) as i64) == whole && whole != i128::from(i64::MIN)
}

/// Checks `minLength` and the like: 3, or 3.0.
pub(super) fn count(value: &Value, _: &Map<String, Value>, path: &Pointer) -> Result<Value, SchemaError> {
    let whole = value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..=MAX_COUNT as f64).contains(number));
    match whole {
        Some(number) => Ok((number as u64).into()),
        None => wrong(path, format!("expected a whole number from 0 to {MAX_COUNT}, found {}", shortened(value))),
    }
}

/// Checks `minimum` and the like. In draft 4 the exclusive ones are booleans.
pub(super) fn bound(value: &Value, schema: &Map<String, Value>, path: &Pointer) -> Result<Value, SchemaError> {
    let is_exclusive = path.last().starts_with("exclusive");
    let number = match value {
        Value::Bool(_) if is_exclusive => return Ok(value.clone()),
        Value::Number(number) => number,
        _ => return wrong(path, format!("expected a number, found {}", shortened(value))),
    };
    // llguidance adds 1 to exclusive bounds of integers, in floating point.
    let is_exclusive =
        is_exclusive || schema.iter().any(|(name, value)| name.starts_with("exclusive") && value == true);
    let is_of_floats = types(schema) == ["number"];
    let is_kept = match written(number) {
        Written::Whole(whole) if is_of_floats => is_float(whole),
        Written::Whole(whole) => is_kept_whole(whole) && (!is_exclusive || (whole as f64).abs() < FAR),
        // 9007199254740993.0 is not a float: it was rounded when it was parsed.
        Written::Float(float) => is_of_floats || float.abs() < FAR,
    };
    let most = FAR as u64 - 1;
    match is_kept {
        true => Ok(value.clone()),
        false => wrong(path, format!("{number} cannot be enforced exactly; use a whole number from -{most} to {most}")),
    }
}

/// Checks `multipleOf`, which llguidance multiplies by 10 until it is an integer.
pub(super) fn multiple(value: &Value, _: &Map<String, Value>, path: &Pointer) -> Result<Value, SchemaError> {
    let Some(float) = value.as_f64().filter(|&float| float > 0.0) else {
        return wrong(path, format!("expected a number above 0, found {}", shortened(value)));
    };
    let (mut scaled, mut n_decimals) = (float, 0);
    while scaled.fract() != 0.0 && n_decimals <= 20 {
        scaled *= 10.0;
        n_decimals += 1;
    }
    let is_kept = scaled <= f64::from(u32::MAX) && format!("{scaled}e-{n_decimals}").parse() == Ok(float);
    match is_kept {
        true => Ok(value.clone()),
        false => wrong(path, format!("{value} cannot be enforced exactly; use a number with fewer digits")),
    }
}

/// Checks a value of `const` or `enum`, and everything inside it.
pub(super) fn literal(value: &Value, path: &Pointer) -> Result<(), SchemaError> {
    match value {
        Value::Number(number) => {
            let is_kept = match written(number) {
                Written::Whole(whole) if number.is_i64() => is_kept_whole(whole),
                Written::Whole(whole) => is_float(whole),
                Written::Float(float) => float.abs() < FAR,
            };
            let most = FAR as u64 - 1;
            match is_kept {
                true => Ok(()),
                false => {
                    wrong(path, format!("{number} cannot be enforced exactly; use a number from -{most} to {most}"))
                }
            }
        }
        Value::Array(all) => {
            all.iter().enumerate().try_for_each(|(at, value)| literal(value, &path.child(&at.to_string())))
        }
        Value::Object(all) => all.iter().try_for_each(|(name, value)| literal(value, &path.child(name))),
        _ => Ok(()),
    }
}
