#![cfg(feature = "restic")]
#![allow(clippy::all, clippy::unwrap_used)]
use drivers::datastore::*; use drivers::restic::*; use drivers::*; use std::sync::Arc; use std::time::Instant;
#[derive(Clone)] struct R { d: Arc<Vec<u8>>, e: Vec<Extent> }
impl DiskReader for R {
    fn size_bytes(&self) -> u64 { self.d.len() as u64 }
    fn extents(&mut self) -> Result<Vec<Extent>> { Ok(self.e.clone()) }
    fn read(&mut self, r: &mut dyn Iterator<Item=(u64,u32)>, s: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>) -> Result<()> {
        for (o,l) in r { s(o, self.d[o as usize..][..l as usize].to_vec())?; } Ok(()) }
}
struct W(u64); impl DiskWriter for W { fn write_at(&mut self, _: u64, d: &[u8]) -> Result<()> { self.0 += d.len() as u64; Ok(()) } fn finish(self: Box<Self>) -> Result<()> { Ok(()) } }
fn hwm() -> String { std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("VmHWM")).unwrap().to_owned() }
#[test] fn bench() {
    let base = std::env::var("BENCH_BASE").unwrap(); let dir = tempfile::tempdir_in(base).unwrap();
    let m = 1usize << 20; let mut d = vec![0u8; 2048*m];
    let mut x = 88172645463325252u64;
    for w in d[..512*m].chunks_exact_mut(8) { x ^= x<<13; x ^= x>>7; x ^= x<<17; w.copy_from_slice(&x.to_le_bytes()); }
    for (i,w) in d[512*m..1024*m].chunks_exact_mut(16).enumerate() { let s = format!("{:016}", (i as u64).wrapping_mul(2654435761) % 100000007); w.copy_from_slice(s.as_bytes()); }
    let verify = std::env::var("V").is_ok();
    let c = ResticConfig { verify_writes: verify, ..ResticConfig::new(dir.path().to_owned(), Secret::new("x".into())) };
    let ds = ResticDatastore::new(c).unwrap();
    let st = |job: &str, parent: Option<&str>, r: R, ch| { let t = Instant::now();
        let q = StoreRequest { series: "7", tags: &[], job, time: 1700000000, parent, document: b"x" };
        let s = ds.store(&q, vec![SourceDisk { id: 0, reader: Box::new(r), change: ch }], &Progress::default(), &Cancel::default()).unwrap();
        println!("{job}: {:?} read {} MiB stored {} KiB; {}", t.elapsed(), s.read_bytes>>20, s.stored_bytes>>10, hwm()); s.point };
    println!("before {}", hwm());
    let d0 = Arc::new(d.clone());
    let f = st("full", None, R { d: d0, e: vec![Extent{offset:0,length:1024*m as u64,content:Content::Data},Extent{offset:1024*m as u64,length:1024*m as u64,content:Content::Zero}] }, Change::Whole);
    let mut e = vec![]; for i in 0..20 { let o = (i*97+3)*m; for w in d[o..o+m].chunks_exact_mut(8) { x ^= x<<13; x ^= x>>7; x ^= x<<17; w.copy_from_slice(&x.to_le_bytes()); } e.push(Extent{offset:o as u64,length:m as u64,content:Content::Data}); }
    let d1 = Arc::new(d);
    let i1 = st("inc 1% runs", Some(&f), R { d: d1.clone(), e }, Change::SinceParent);
    let i2 = st("inc nothing", Some(&i1), R { d: d1.clone(), e: vec![] }, Change::SinceParent);
    let t = Instant::now(); let mut w = W(0); ds.restore("7", &i2, 0, &mut w, &Progress::default(), &Cancel::default()).unwrap();
    println!("restore {:?} {} MiB {}", t.elapsed(), w.0>>20, hwm());
    let t = Instant::now(); ds.inspect("7", &i2).unwrap(); println!("inspect {:?}", t.elapsed());
    let t = Instant::now(); let n = ds.forget("7", &[f]).unwrap(); println!("forget {:?} freed {} KiB", t.elapsed(), n>>10);
    let t = Instant::now(); ds.sweep("7").unwrap(); println!("sweep {:?}", t.elapsed());
}
