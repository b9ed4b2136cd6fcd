# escape=`
FROM x
RUN a `
  b\
ENV k=v` w
