//! Formats the date that some templates print with `strftime_now`, from a time that the caller passes.
//!
//! Names are English, as in Python's C locale.

/// A point in time and its offset from UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LocalTime {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub unix_s: i64,
    /// Seconds by which local time is ahead of UTC.
    pub utc_offset_s: i32,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The calendar fields of a local time.
struct Fields {
    year: i64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: i64,
    /// 1 to 366.
    year_day: i64,
    /// 0 is Sunday.
    weekday: usize,
    hour: i64,
    minute: i64,
    second: i64,
}

impl LocalTime {
    /// Formats like Python's `datetime.now().strftime`, with glibc's `%-d` for numbers without padding. Unknown
    /// directives are copied unchanged.
    pub fn strftime(self, format: &str) -> String {
        let fields = self.fields();
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let padded = directive != Some('-');
            if !padded {
                directive = chars.next();
            }
            match directive.and_then(|directive| self.directive(&fields, directive, padded)) {
                Some(text) => out.push_str(&text),
                None => {
                    out.push_str(if padded { "%" } else { "%-" });
                    out.extend(directive);
                }
            }
        }
        out
    }

    fn directive(self, fields: &Fields, directive: char, padded: bool) -> Option<String> {
        let number = |n: i64, width: usize| match padded {
            true => format!("{n:0width$}"),
            false => n.to_string(),
        };
        let hour_12 = (fields.hour + 11) % 12 + 1;
        let (weekday, month) = (WEEKDAYS[fields.weekday], MONTHS[fields.month - 1]);
        let text = match directive {
            '%' => "%".to_owned(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            'a' => weekday[..3].to_owned(),
            'A' => weekday.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'B' => month.to_owned(),
            'd' => number(fields.day, 2),
            'e' => format!("{:2}", fields.day),
            'm' => number(fields.month as i64, 2),
            'y' => number(fields.year.rem_euclid(100), 2),
            'Y' => fields.year.to_string(),
            'C' => number(fields.year.div_euclid(100), 2),
            'j' => number(fields.year_day, 3),
            'H' => number(fields.hour, 2),
            'I' => number(hour_12, 2),
            'M' => number(fields.minute, 2),
            'S' => number(fields.second, 2),
            'f' => "000000".to_owned(),
            'p' => if fields.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'w' => fields.weekday.to_string(),
            'u' => ((fields.weekday + 6) % 7 + 1).to_string(),
            's' => self.unix_s.to_string(),
            // Python prints nothing here for a time without a zone, such as `datetime.now()`.
            'z' | 'Z' => String::new(),
            'F' => self.strftime("%Y-%m-%d"),
            'T' | 'X' => self.strftime("%H:%M:%S"),
            'R' => self.strftime("%H:%M"),
            'D' | 'x' => self.strftime("%m/%d/%y"),
            'r' => self.strftime("%I:%M:%S %p"),
            'c' => self.strftime("%a %b %e %H:%M:%S %Y"),
            _ => return None,
        };
        Some(text)
    }

    /// Computes the fields in the proleptic Gregorian calendar. Years start in March internally, so that the leap day
    /// comes last.
    fn fields(self) -> Fields {
        let seconds = self.unix_s.saturating_add(i64::from(self.utc_offset_s));
        let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Days since 0000-03-01, in eras of 400 years.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = (month_from_march + 2) % 12 + 1;
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let year_day = if month > 2 { day_of_year + 60 + i64::from(is_leap) } else { day_of_year - 305 };
        Fields {
            year,
            month: month as usize,
            day,
            year_day,
            weekday: (days + 4).rem_euclid(7) as usize,
            hour: second_of_day / 3_600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expectations from Python: `datetime.fromtimestamp(s, utc).strftime(..)`.
    #[test]
    fn formats_like_python() {
        let format = "%d %b %Y|%A %-d %B|%j|%w %u|%I:%M:%S %p|%y %-m %%|%F %T|%c|%q%-";
        let at = |unix_s| LocalTime { unix_s, utc_offset_s: 0 }.strftime(format);
        let epoch = "01 Jan 1970|Thursday 1 January|001|4 4|12:00:00 AM|70 1 %|1970-01-01 00:00:00|";
        assert_eq!(at(0), format!("{epoch}Thu Jan  1 00:00:00 1970|%q%-"));
        let leap = "29 Feb 2024|Thursday 29 February|060|4 4|12:34:56 PM|24 2 %|2024-02-29 12:34:56|";
        assert_eq!(at(1_709_210_096), format!("{leap}Thu Feb 29 12:34:56 2024|%q%-"));
        let last = "31 Dec 2000|Sunday 31 December|366|0 7|11:59:59 PM|00 12 %|2000-12-31 23:59:59|";
        assert_eq!(at(978_307_199), format!("{last}Sun Dec 31 23:59:59 2000|%q%-"));
    }

    #[test]
    fn the_offset_moves_the_date() {
        let new_york = LocalTime { unix_s: 0, utc_offset_s: -5 * 3_600 };
        assert_eq!(new_york.strftime("%Y-%m-%d %H:%M"), "1969-12-31 19:00");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let (mut month, mut day) = (12, 31);
        let mut year_day = 365;
        for n in -800_i64..40_000 {
            let fields = LocalTime { unix_s: n * 86_400, utc_offset_s: 0 }.fields();
            if n > -800 {
                let next = (fields.month, fields.day) == (month, day + 1) || fields.day == 1 && day >= 28;
                assert!(next, "day {n}");
                assert!(fields.year_day == year_day + 1 || fields.year_day == 1 && year_day >= 365, "day {n}");
            }
            (month, day, year_day) = (fields.month, fields.day, fields.year_day);
        }
    }
}
