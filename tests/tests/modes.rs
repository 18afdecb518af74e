//! Modes: what a COMMIT on the primary that has returned is worth, on replicas of every engine.
//!
//! `REPL_TEST_FULL=1` turns the tens of crashes into hundreds.

mod modes {
    mod clients;
    mod locks;
    mod loss;
    mod outages;
    mod privileges;
    mod release;
    mod rig;
    mod sabotage;
    mod settings;
    mod standing;
    mod switching;
}
