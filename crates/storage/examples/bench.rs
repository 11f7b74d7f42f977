use std::time::Instant;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let root = std::path::Path::new(&args[1]);
    let store = storage::LayerStore::open(root).unwrap();
    let t = Instant::now();
    let mut st = store.stage().unwrap();
    let mut f = std::fs::File::open(&args[2]).unwrap();
    let s = st.apply(&mut f, &storage::Limits::default()).unwrap();
    eprintln!("apply {:?} {:?}", t.elapsed(), s);
    let t = Instant::now();
    let id = oci::Digest::sha256_of(args[2].as_bytes());
    st.commit(&id, &[]).unwrap();
    eprintln!("commit {:?}", t.elapsed());
    if args.get(3).is_some() {
        let t = Instant::now();
        store.remove(&id).unwrap();
        store.empty_trash().unwrap();
        eprintln!("trash {:?}", t.elapsed());
    }
}
