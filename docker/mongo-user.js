// Run once by MongoDB's image, when its volume is new: a user who may read and write one database and nothing else.
const password = require("fs").readFileSync("/run/secrets/mongo_password", "utf8").trim();
db.getSiblingDB("scdm").createUser({
  user: "scdm",
  pwd: password,
  roles: [{ role: "readWrite", db: "scdm" }],
});
