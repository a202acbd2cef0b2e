// Run once by MongoDB's image, when its volume is new: a user for workers, who may read and write one database and
// nothing else, and one for the pages, who may only read it.
const secret = (name) => require("fs").readFileSync(`/run/secrets/${name}`, "utf8").trim();
const scdm = db.getSiblingDB("scdm");
scdm.createUser({ user: "scdm", pwd: secret("mongo_password"), roles: [{ role: "readWrite", db: "scdm" }] });
scdm.createUser({ user: "reader", pwd: secret("mongo_reader_password"), roles: [{ role: "read", db: "scdm" }] });
