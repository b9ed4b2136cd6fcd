import fs from "node:fs";
fs.mkdirSync("public", { recursive: true });
for (const name of fs.readdirSync("posts").sort())
  fs.writeFileSync(`public/${name.replace(".md", ".html")}`, `<p>${fs.readFileSync(`posts/${name}`, "utf8").trim()}</p>\n`);
