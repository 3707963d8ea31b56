//! The command line is sound, and says what it wants.

use super::*;

#[test]
fn the_definition_is_sound() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
}

/// Every command and flag has a sentence of help.
fn told(command: &clap::Command) {
    assert!(command.get_about().is_some(), "{}", command.get_name());
    for arg in command.get_arguments() {
        assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
    }
    command.get_subcommands().for_each(told);
}

#[test]
fn every_command_and_flag_has_its_sentence() {
    use clap::CommandFactory as _;
    told(&Cli::command());
}

#[test]
fn durations_and_pairs_say_what_they_want() {
    assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
    assert_eq!(duration("2h"), Ok(Duration::from_hours(2)));
    for bad in ["", "90", "0s", "-1s", "1d", "99999999999999999999h"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
    assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
    for bad in ["", "a", "=b", "a="] {
        assert!(pair(bad).is_err(), "{bad}");
    }
}
