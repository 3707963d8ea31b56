//! The state folder on a real disk: killed anywhere, also in the middle of a write, the next builder finds
//! whole files and goes on.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use builder::life::{
    Drawer, Folder, Journal, Op, Operation, Outcome, Shelf, World, begin, history,
};

use crate::model::{Effect, Killed, Model};
use crate::sample;
use crate::setup::{cluster, request, verdict};

/// Where the child keeps its state, and the point at which it ends.
const CHILD: &str = "LIFE_TEST_CHILD";

fn rebuild(model: &Model, folder: &Path) -> Journal {
    let shelf = Folder::own(folder).unwrap();
    let world = World { shelf: &shelf, ..model.world() };
    let open = history::unfinished(&shelf).unwrap().pop();
    let begins = || begin(&world, &request(Operation::Rebuild, "worker-0")).unwrap();
    let mut op = Op::new(world, open.unwrap_or_else(begins));
    op.run().unwrap();
    op.journal().clone()
}

#[test]
fn a_killed_builder_goes_on_from_the_folder() {
    let sound = Model::new(cluster(1, 2));
    let folder = tempfile::tempdir().unwrap();
    rebuild(&sound, folder.path());
    let calls = sound.tape.lock().unwrap().made.len();
    let chosen = sample::chosen("kills with a folder", calls, 10);
    for at in &chosen {
        let model = Model::new(cluster(1, 2));
        model.tape.lock().unwrap().faults.push((*at, Effect::KilledAfter));
        let folder = tempfile::tempdir().unwrap();
        let end = catch_unwind(AssertUnwindSafe(|| rebuild(&model, folder.path())));
        assert!(end.is_err_and(|payload| payload.is::<Killed>()), "call {at}");
        let journal = rebuild(&model, folder.path());
        assert_eq!(journal.outcome, Some(Outcome::Done), "call {at}: {journal:#?}");
        verdict(&model, &BTreeMap::from([("worker-0".to_owned(), 2)]), None).unwrap();
        assert_eq!(litter(folder.path()), Vec::<String>::new());
    }
    println!("{} of {calls} kills with a folder", chosen.len());
}

fn litter(folder: &Path) -> Vec<String> {
    let names = fs_err::read_dir(folder.join("journal")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| Path::new(name).extension().is_none_or(|e| e != "json")).collect()
}

/// Not a test of its own: the process that is ended in the middle of a write.
#[test]
fn child() {
    let Some(wish) = std::env::var_os(CHILD) else { return };
    let wish = wish.into_string().unwrap();
    let (point, folder) = wish.split_once(':').unwrap();
    node::failpoint::stop_at(point.parse().unwrap());
    rebuild(&Model::new(cluster(1, 2)), Path::new(folder));
}

#[test]
fn a_journal_is_whole_at_every_point_of_a_power_cut() {
    let ends = |point: usize, folder: &Path| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "disk::child"]).env(CHILD, format!("{point}:{}", folder.display()));
        child.output().unwrap().status.code()
    };
    // Some points lie behind the end: there the child ends by itself.
    let chosen = sample::chosen("power cuts in a write", 200, 8);
    let mut cut = 0;
    for point in chosen.iter().map(|n| n + 1) {
        let folder = tempfile::tempdir().unwrap();
        let code = ends(point, folder.path());
        assert!(
            code == Some(0) || code == Some(node::failpoint::STOPPED),
            "point {point}: {code:?}"
        );
        cut += usize::from(code != Some(0));
        let shelf = Folder::own(folder.path()).unwrap();
        let journals =
            history::operations(&shelf).unwrap_or_else(|e| panic!("point {point}: {e:#}"));
        assert_eq!(journals.len(), shelf.names(Drawer::Journal).unwrap().len());
        assert!(point < 3 || journals.len() == 1, "point {point}: nothing is on disk");
        assert_eq!(litter(folder.path()), Vec::<String>::new(), "point {point}");
    }
    println!("{cut} power cuts in a write");
    assert!(cut > 0);
}
