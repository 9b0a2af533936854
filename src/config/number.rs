//! Numbers with suffixes, and whether a value is one its option takes.

use super::error::ConfigErrorKind;
use super::options::{Kind, OptionSpec, Unit};

/// Why text is no number of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotNumber {
    /// It is no number at all.
    Form,
    /// It is too large for 64 bits.
    Size,
}

/// Reads digits with an optional suffix K, M, G (or k, m, g; powers of 1024) or s (sectors). The result counts `unit`s,
/// rounded up; without suffix the digits count them.
pub(super) fn parse(text: &str, unit: Unit) -> Result<u64, NotNumber> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let suffix = text.strip_prefix(digits).unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotNumber::Form);
    }
    let scale: u128 = match suffix {
        "" => u128::from(unit.scale()),
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "s" => 512,
        _ => return Err(NotNumber::Form),
    };
    let number: u64 = digits.parse().map_err(|_| NotNumber::Size)?;
    let bytes = u128::from(number) * scale;
    u64::try_from(bytes.div_ceil(u128::from(unit.scale()))).map_err(|_| NotNumber::Size)
}

/// A place on a volume as DRBD's tools take it, in sectors: digits, which count sectors, with an optional suffix K, M, G (powers
/// of 1024 bytes) or s (sectors).
///
/// # Errors
/// It is no such number, or too large for 64 bits.
pub fn sectors(text: &str) -> Result<u64, String> {
    parse(text, Unit::Sector).map_err(|_| format!("{text:?} is no number of sectors (digits; K, M or G for bytes)"))
}

/// Whether `value` is one that `spec` takes.
pub(super) fn check(spec: &OptionSpec, value: &str) -> Result<(), ConfigErrorKind> {
    match spec.kind {
        Kind::Number { unit, min, max } => check_number(spec, value, unit, min, max),
        Kind::NumberOr { words, .. } if words.contains(&value) => Ok(()),
        Kind::NumberOr { min, max, .. } => match parse(value, Unit::One) {
            Ok(number) if (min..=max).contains(&number) => Ok(()),
            _ => Err(not_allowed(spec, value)),
        },
        Kind::Choice(words) if words.contains(&value) => Ok(()),
        Kind::Boolean if value == "yes" || value == "no" => Ok(()),
        Kind::Text(limit) if value.len() <= limit => Ok(()),
        Kind::Words | Kind::Flag => Ok(()),
        Kind::Choice(_) | Kind::Boolean | Kind::Text(_) => Err(not_allowed(spec, value)),
    }
}

fn check_number(spec: &OptionSpec, value: &str, unit: Unit, min: u64, max: u64) -> Result<(), ConfigErrorKind> {
    let (option, range) = (spec.name.to_owned(), spec.allowed());
    match parse(value, unit) {
        Ok(number) if (min..=max).contains(&number) => Ok(()),
        Ok(_) | Err(NotNumber::Size) => Err(ConfigErrorKind::OutOfRange { option, value: value.to_owned(), range }),
        Err(NotNumber::Form) => Err(ConfigErrorKind::NotANumber { option, value: value.to_owned(), range }),
    }
}

fn not_allowed(spec: &OptionSpec, value: &str) -> ConfigErrorKind {
    ConfigErrorKind::NotAllowed { option: spec.name.to_owned(), value: value.to_owned(), allowed: spec.allowed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_convert_into_the_unit_and_round_up() {
        let case = |text, unit, expected| assert_eq!(parse(text, unit), expected, "{text}");
        case("10", Unit::KibibytePerSecond, Ok(10));
        case("10M", Unit::KibibytePerSecond, Ok(10_240));
        case("1s", Unit::KibibytePerSecond, Ok(1));
        case("3s", Unit::KibibytePerSecond, Ok(2));
        case("1M", Unit::Sector, Ok(2048));
        case("7", Unit::Sector, Ok(7));
        case("8k", Unit::One, Ok(8192));
        case("1g", Unit::Byte, Ok(1 << 30));
        case("-1", Unit::One, Err(NotNumber::Form));
        case("1x", Unit::One, Err(NotNumber::Form));
        case("", Unit::One, Err(NotNumber::Form));
        case("99999999999999999999", Unit::One, Err(NotNumber::Size));
        case("18446744073709551615G", Unit::One, Err(NotNumber::Size));
    }
}
