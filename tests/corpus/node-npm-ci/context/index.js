console.log(require("ms")(Number(process.argv[2] || 1000)));
